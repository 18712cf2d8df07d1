"""Check torch and its CUDA, the driver, GPUs, NCCL, 4-bit layers, and accelerate's config."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mvp_align.doctor.findings import GB, Finding, fail, ok, warn

LAUNCH_CONFLICTS: Mapping[str, tuple[object, ...]] = {
    "mixed_precision": ("no", False),  # how YAML reads a bare `no`
    "distributed_type": ("NO", False, "MULTI_GPU", "MULTI_CPU"),
    "num_machines": (1,),
}
"""Keys of accelerate's config file, with their harmless values.

Other values would contradict `hardware.*` or the run folder.
"""


def torch_build() -> Finding:
    """Compare torch's CUDA with the driver."""
    import torch

    driver, built = _driver_version(), torch.version.cuda
    found = (
        f"{torch.__version__}, {f'CUDA {built}' if built else 'CPU build'}, driver"
        f" {driver or 'none'}"
    )
    if not driver or torch.cuda.is_available():
        return ok(found)
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return warn(
            f"{found}, and CUDA_VISIBLE_DEVICES hides the GPUs",
            "Unset it, unless runs are to take the CPU.",
        )
    remedy = (
        f"Update the driver, or take a torch for less than CUDA {built}"
        if built
        else "Install a CUDA build of torch"
    )
    return fail(
        f"{found}, but torch reaches no GPU",
        f"{remedy}. In a container: start it with the GPUs (--gpus all, --nv).",
    )


def _driver_version() -> str | None:
    """Return the NVIDIA driver's version by nvidia-smi, or None without a driver or a GPU."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.split()[0] if done.returncode == 0 and done.stdout.strip() else None


def warn_if_gpu_full(check: Callable[[], Finding]) -> Finding:
    """Return `check`'s finding, or a warning if the GPU has no free memory to run it.

    That is normal while a run uses the GPU.
    """
    try:
        return check()
    # torch.OutOfMemoryError, or CUDA's own error if it cannot even initialise
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        return warn(
            "not checked: no GPU memory is left",
            "A run that holds it may well want it; else see nvidia-smi.",
        )


def gpus() -> Finding:
    """Run a small matrix product on each GPU.

    A capability that torch was not built for fails here instead of in a run.
    """
    import torch

    if not torch.cuda.is_available():
        return warn(
            "none: runs take the CPU, in fp32", "Enough for `make demo`; LLaMA-2 needs a GPU."
        )
    lines, busy, old = [], [], []
    for index in range(torch.cuda.device_count()):
        shape = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        torch.ones(64, 64, device=f"cuda:{index}").square().mm(
            torch.ones(64, 64, device=f"cuda:{index}")
        ).sum().item()
        bf16 = shape.major >= 8
        lines.append(
            f"{index}: {shape.name}, {free / GB:.0f} of {total / GB:.0f} GB free, capability"
            f" {shape.major}.{shape.minor}, {'bf16' if bf16 else 'no bf16'}"
        )
        busy += [str(index)] if free < 0.5 * total else []
        old += [] if bf16 else [str(index)]
    found = "; ".join(lines)
    if busy:
        return warn(
            found,
            f"GPU {', '.join(busy)}: somebody else holds over half of the memory (nvidia-smi shows"
            " who).",
        )
    if old:
        return warn(
            found,
            f"GPU {', '.join(old)}: hardware.precision=auto takes fp16, whose range is narrow.",
        )
    return ok(found)


def nccl() -> Finding:
    import torch
    import torch.distributed as dist

    count = torch.cuda.device_count()
    if not (dist.is_available() and dist.is_nccl_available()):
        if count > 1:
            return fail(
                f"none in this torch, and {count} GPUs",
                "Install a CUDA build of torch: several GPUs need NCCL.",
            )
        return ok("none in this torch, and none needed without several GPUs")
    shared = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0
    number = ".".join(map(str, torch.cuda.nccl.version())) if count else "there"
    found = f"{number}, {shared / GB:.1f} GB of shared memory"
    if count > 1 and shared < GB:
        return warn(
            found, "Several GPUs need more than a container's 64 MB: --shm-size 8g (Docker)."
        )
    return ok(found)


def four_bit() -> Finding:
    """Quantise a small layer to NF4 on the device that runs use, and compare its output."""
    import torch
    from bitsandbytes.nn import Linear4bit

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    plain = torch.nn.Linear(128, 128, bias=False)
    layer = Linear4bit(128, 128, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(16, 128)
    with torch.no_grad():
        exact, close = plain(x), layer.to(device)(x.to(device)).cpu()
    error = float((close - exact).norm() / exact.norm())
    found = f"{version('bitsandbytes')} on {device}: NF4 within {100 * error:.0f} %"
    if not error < 0.2:  # also fails for NaN; a uniform 4-bit grid would be off by about 10 %
        return fail(
            found,
            "quantization=4bit would be wrong here: install the bitsandbytes of constraints.txt.",
        )
    return ok(found)


def launch_config() -> Finding:
    """Check accelerate's config file, which `accelerate launch` uses unless a flag overrides it."""
    import yaml
    from accelerate.commands.config.config_args import default_config_file

    path = Path(default_config_file)
    if not path.is_file():
        return ok(f"none at {path}: the launcher's defaults")
    config = yaml.safe_load(path.read_text("utf-8"))  # YAML includes JSON
    if not isinstance(config, dict):
        return warn(
            f"{path} holds no settings", "Delete it, or write it again with `accelerate config`."
        )
    wrong = launch_problems(config)
    if wrong:
        return warn(
            f"{path}: {', '.join(wrong)}",
            "Change that, or say otherwise: accelerate launch --mixed_precision no ...",
        )
    return ok(f"{path}, nothing that gets in the way")


def launch_problems(config: Mapping[str, Any]) -> list[str]:
    """List settings in the file that conflict with ours.

    `hardware.*` decides on precision and placement, and we do not use torch.compile.
    """
    import torch

    wrong = [
        f"{key}: {config[key]}"
        for key, fine in LAUNCH_CONFLICTS.items()
        if key in config and config[key] not in fine
    ]
    count = torch.cuda.device_count()
    if config.get("use_cpu") in (True, "true") and count:
        wrong.append("use_cpu: true, and there are GPUs")
    if count and int(config.get("num_processes") or 1) > count:
        wrong.append(f"num_processes: {config['num_processes']}, and there are {count} GPUs")
    if str((config.get("dynamo_config") or {}).get("dynamo_backend", "NO")) != "NO":
        wrong.append(f"dynamo_backend: {config['dynamo_config']['dynamo_backend']}")
    return wrong
