"""A stand-in for the program `vllm`: takes what `slurm/serve.py` gives it, and serves for real.

`transformers serve` answers, by the base or by the adapter merged into it, under the name and with
the tokenizer that `vllm serve` was given. An option that vLLM does not have ends it.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm")
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    for name in ("host", "port", "tokenizer", "revision", "served-model-name", "dtype"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--generation-config", choices=["auto", "vllm"])
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--lora-modules", type=lambda text: text.split("="))
    parser.add_argument("--max-lora-rank", type=int, choices=[8, 16, 32, 64, 128, 256, 320, 512])
    return parser.parse_args()


def merge(base: str, adapter: str, target: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    model.merge_and_unload().save_pretrained(target)


def main() -> None:
    given = options()
    assert given.generation_config == "vllm" and os.environ["VLLM_API_KEY"]
    if mark := os.environ.get("STAND_IN_PID"):
        Path(mark).write_text(str(os.getpid()))
    os.chdir(tempfile.mkdtemp())
    name = given.served_model_name
    if given.enable_lora:
        name, adapter = given.lora_modules
        assert not (Path(adapter) / "tokenizer.json").exists()
        merge(given.model, adapter, Path(name))
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(given.tokenizer).save_pretrained(name)
    program = Path(sys.executable).with_name("transformers")
    where = ["--host", given.host, "--port", given.port, "--device", "cpu", "--dtype", "float32"]
    os.execv(program, [str(program), "serve", name, *where])


if __name__ == "__main__":
    main()
