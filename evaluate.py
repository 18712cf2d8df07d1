"""accelerate launch evaluate.py adapter=outputs/RUN/adapter: the same checks on any model or
adapter."""

from mvp_align.config import Config
from mvp_align.launch import run


def job(config: Config) -> None:
    from recipes.evaluate import main

    main(config)


if __name__ == "__main__":
    run("evaluate", job)
