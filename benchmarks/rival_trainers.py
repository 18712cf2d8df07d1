"""Train with TRL as its users do: alone, with Liger's kernels, or with Unsloth.

Models are loaded by `from_pretrained` and adapted by PEFT, without anything of mvp_align, so that
`python -m benchmarks.rival_trainers JOB RESULT` also runs beside other versions of the libraries.
JOB is a file with a `Job` as JSON; RESULT is replaced after each try, by a list of what `attempt`
returns.
"""

import gc
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__" and json.loads(Path(sys.argv[1]).read_text("utf-8"))["unsloth"]:
    import unsloth  # noqa: F401  # it patches the libraries below as they are imported

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PrinterCallback,
    set_seed,
)
from trl import DPOConfig, DPOTrainer

from benchmarks.machine import SHAPES, gemm_rate, now
from benchmarks.step_times import Timed, Watch

OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True, slots=True)
class Job:
    """Runs of one trainer over the same pairs."""

    model: str
    """A folder with weights and a tokenizer."""
    dtype: str
    """Of the base model: float32, bfloat16 or float16."""
    pairs: list[dict[str, str]]
    """Texts of prompt, chosen and rejected."""
    lora: dict[str, Any]
    """r, lora_alpha, lora_dropout and target_modules."""
    arguments: dict[str, Any]
    """Of DPOConfig, but for what a try sets."""
    batch: int
    """Pairs a step."""
    tries: list[tuple[int, bool]]
    """Pairs a pass, and whether layers are checkpointed."""
    every: bool = True
    """Run all tries, or only down to the first that fits."""
    four_bit: bool = False
    adapter: str | None = None
    """A folder with an adapter to start from, instead of a new one. The reference is the base."""
    precomputed: bool = False
    liger: bool = False
    unsloth: bool = False
    traced: bool = False
    rates: int = 0
    """Shapes of matrix products to time, the smallest first."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one try: `timed`, or why there is none."""

    micro: int
    checkpointing: bool
    timed: Timed | None = None
    failed: str | None = None
    load_seconds: float = 0.0
    gemm: float | None = None
    """FLOP/s of matrix products in this process."""
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Attempt":
        timed = found["timed"]
        return cls(**{**found, "timed": None if timed is None else Timed.from_json(timed)})

    def with_rate(self, gemm: float | None) -> "Attempt":
        return replace(self, gemm=gemm)


def attempts(job: Job) -> Iterator[Attempt]:
    """Run the job's tries, each with a base model of its own, as trainers leave traces on it.

    They end with the first failure that less memory would not mend.
    """
    gemm = measured_rate(device_of_runs(), getattr(torch, job.dtype), job.rates)
    for micro, checkpointing in job.tries:
        found = attempt(job, micro, checkpointing, gemm)
        yield found
        if found.failed not in (None, OUT_OF_MEMORY) or (found.timed and not job.every):
            return


def measured_rate(device: torch.device, dtype: torch.dtype, shapes: int) -> float | None:
    return gemm_rate(device, dtype, SHAPES[:shapes]) if shapes else None


def attempt(job: Job, micro: int, checkpointing: bool, gemm: float | None = None) -> Attempt:
    """Load, train and time once. Whatever the rival raises is the reason of a try without times."""
    device = device_of_runs()
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TRL's of use_liger_kernel
            began = now(device)
            model, tokenizer = loaded_model(job, checkpointing)
            load_seconds = now(device) - began
            watch = Watch(device, job.traced)
            watch.start()
            trainer = rival_trainer(job, model, tokenizer, micro, checkpointing, folder)
            watch.built(trainer)
            trainer.train()
            return Attempt(
                micro, checkpointing, watch.result(trainer), None, load_seconds, gemm, versions()
            )
    except torch.OutOfMemoryError:
        return Attempt(micro, checkpointing, failed=OUT_OF_MEMORY, versions=versions())
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return Attempt(micro, checkpointing, failed=reason, versions=versions())
    finally:
        model = trainer = watch = None  # type: ignore[assignment]
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def device_of_runs() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def versions() -> dict[str, str]:
    import peft
    import transformers
    import trl

    named = {"peft": peft, "torch": torch, "transformers": transformers, "trl": trl}
    named |= {name: sys.modules[name] for name in ("unsloth",) if name in sys.modules}
    return {name: str(module.__version__) for name, module in named.items()}


def loaded_model(job: Job, checkpointing: bool) -> tuple[PreTrainedModel | PeftModel, Any]:
    """Return the adapted model, and the tokenizer."""
    dtype, seed = getattr(torch, job.dtype), job.arguments["seed"]
    if job.unsloth:
        from unsloth import FastLanguageModel

        model, tokenizer = FastLanguageModel.from_pretrained(
            job.model, max_seq_length=2048, dtype=dtype, load_in_4bit=job.four_bit
        )
        return FastLanguageModel.get_peft_model(
            model,
            # DPO trains without dropout, and only without has Unsloth kernels of its own
            **{**job.lora, "lora_dropout": 0},
            use_gradient_checkpointing="unsloth" if checkpointing else False,
            random_state=seed,
        ), tokenizer
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": device_of_runs()}}
    if job.four_bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    base = AutoModelForCausalLM.from_pretrained(job.model, **options)
    base.config.use_cache = False
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    if job.adapter is not None:
        return PeftModel.from_pretrained(base, job.adapter, is_trainable=True), tokenizer
    set_seed(seed)
    return get_peft_model(base, LoraConfig(**job.lora, task_type="CAUSAL_LM")), tokenizer


def rival_trainer(
    job: Job, model: Any, tokenizer: Any, micro: int, checkpointing: bool, folder: str
) -> DPOTrainer:
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    disable_progress_bars()
    args = DPOConfig(
        output_dir=folder,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=job.batch // micro,
        gradient_checkpointing=checkpointing,
        precompute_ref_log_probs=job.precomputed,
        use_liger_kernel=job.liger,
        bf16=job.dtype == "bfloat16",
        fp16=job.dtype == "float16",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **job.arguments,
    )
    trainer = DPOTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(job.pairs),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    if job.adapter is not None:
        model.delete_adapter("ref")  # TRL's copy of the starting adapter, its reference else
    return trainer


def main(job_file: Path, result_file: Path) -> None:
    job = Job(**json.loads(job_file.read_text("utf-8")))
    done = []
    for found in attempts(job):
        done.append(asdict(found))
        aside = result_file.with_suffix(".tmp")
        aside.write_text(json.dumps(done, allow_nan=False), encoding="utf-8")
        aside.replace(result_file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
