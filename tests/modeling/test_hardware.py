"""How `auto` resolves on this machine, and errors about hardware before any model loads."""

from pathlib import Path

import pytest
import torch

from mvp_align.config import Hardware
from mvp_align.errors import UserError
from mvp_align.modeling import hardware
from mvp_align.modeling.hardware import best_precision, cpu_has_bf16, resolve_hardware

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
with_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
]


@without_gpu
def test_auto_is_the_cpu_in_fp32() -> None:
    placed = resolve_hardware(Hardware())
    assert (placed.device.type, placed.dtype, placed.precision) == ("cpu", torch.float32, "fp32")
    assert placed.attention is None  # the model's own choice
    assert (placed.processes, placed.is_main) == (1, True)


def test_the_cpu_in_fp32_can_be_asked_for() -> None:
    placed = resolve_hardware(Hardware(device="cpu", precision="fp32", attention="eager"))
    assert (placed.device.type, placed.precision, placed.attention) == ("cpu", "fp32", "eager")
    assert best_precision(on_gpu=False) == "fp32"


@without_gpu
def test_a_dry_run_may_ask_for_a_gpu_that_is_elsewhere() -> None:
    placed = resolve_hardware(Hardware(device="cuda"), dry_run=True)
    assert (placed.device.type, placed.precision, placed.processes) == ("cuda", "bf16", 1)
    assert (
        resolve_hardware(Hardware(device="cuda", precision="fp16"), dry_run=True).precision
        == "fp16"
    )
    assert resolve_hardware(Hardware(), dry_run=True).device.type == "cpu"


def test_auto_is_what_the_launcher_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Trainer would compute so in any case, whatever the run records."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: True)
    assert resolve_hardware(Hardware(device="cpu")).precision == "bf16"
    assert resolve_hardware(Hardware(device="cuda"), dry_run=True).precision == "bf16"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert resolve_hardware(Hardware()).device.type == "cpu"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        pytest.param(
            {"device": "cuda"},
            ["hardware.device=cuda", "no CUDA GPU", "hardware=cpu"],
            marks=without_gpu,
        ),
        ({"device": "cpu", "precision": "fp16"}, ["hardware.precision=fp16", "use fp32 (or auto)"]),
        (
            {"device": "cpu", "attention": "flash_attention_2"},
            ["flash_attention_2", "use hardware.attention=auto"],
        ),
    ],
)
def test_what_a_cpu_lacks_is_refused_with_a_remedy(asked: dict[str, str], said: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        resolve_hardware(Hardware(**asked))
    for words in said:
        assert words in str(caught.value)


def test_bf16_only_where_the_cpu_has_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Hardware(device="cpu", precision="bf16")
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: True)
    assert resolve_hardware(asked).dtype == torch.bfloat16
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: False)
    with pytest.raises(UserError, match=r"no bf16 units.*Use hardware\.precision=fp32 \(or auto\)"):
        resolve_hardware(asked)
    assert resolve_hardware(Hardware(device="cpu")).dtype == torch.float32


@without_gpu
def test_zero2_is_for_several_processes_in_a_precision_that_it_has() -> None:
    asked = Hardware(device="cpu", sharding="zero2")
    with pytest.raises(UserError, match="accelerate launch --num_processes N"):
        resolve_hardware(asked)
    assert resolve_hardware(asked, dry_run=True).precision == "fp32"
    elsewhere = Hardware(device="cuda", precision="fp16", sharding="zero2")
    with pytest.raises(UserError, match="bf16 or fp32"):
        resolve_hardware(elsewhere, dry_run=True)


def test_the_probe_agrees_with_the_kernel() -> None:
    flags = Path("/proc/cpuinfo")
    if not flags.is_file():
        pytest.skip("no /proc/cpuinfo here")
    words = set(flags.read_text().split())
    assert cpu_has_bf16() == bool(words & {"avx512_bf16", "amx_bf16"})


class TestGpu:
    pytestmark = with_gpu

    def test_auto_is_the_gpu_in_its_best_precision(self) -> None:
        placed = resolve_hardware(Hardware())
        assert placed.device.type == "cuda"
        assert placed.precision == (
            "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
        )


def test_processes_of_srun_that_do_not_know_of_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(UserError, match=r"srun started 2 processes, .* Use slurm/train\.sbatch"):
        resolve_hardware(Hardware())
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    resolve_hardware(Hardware(device="cpu"))
