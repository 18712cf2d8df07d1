"""accelerate launch train.py recipe=lora_dpo experiment=divervalue_llama2_7b"""

from importlib import import_module

from mvp_align.config import Config
from mvp_align.launch import run


def job(config: Config) -> None:
    import_module(f"recipes.{config.recipe}").main(config)


if __name__ == "__main__":
    run("train", job)
