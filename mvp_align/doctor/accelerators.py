"""What computes: torch and its CUDA, the driver, the GPUs, NCCL, 4-bit layers, and how processes
are launched."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mvp_align.doctor.findings import GB, Finding, fail, ok, warn

LAUNCH_CONFLICTS: Mapping[str, tuple[object, ...]] = {
    "mixed_precision": ("no", False),  # YAML's own reading of a bare `no`
    "distributed_type": ("NO", False, "MULTI_GPU", "MULTI_CPU"),
    "num_machines": (1,),
}
"""Keys of accelerate's config file, with the values under which `hardware.*` and the run folder
mean what they say."""


def torch_build() -> Finding:
    """torch's own CUDA, beside what the driver says of itself."""
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
    """NVIDIA's driver as nvidia-smi tells it; None where there is none, or it shows no GPU."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.split()[0] if done.returncode == 0 and done.stdout.strip() else None


def unless_full(check: Callable[[], Finding]) -> Finding:
    """`check`'s finding, or a warning where the GPU has no memory left for it, as beside a run that
    makes full use of it."""
    try:
        return check()
    # torch.OutOfMemoryError, or CUDA's own where it cannot even begin
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        return warn(
            "not checked: no GPU memory is left",
            "A run that holds it may well want it; else see nvidia-smi.",
        )


def gpus() -> Finding:
    """Each GPU does a small matrix product: a capability that torch was not built for shows here
    and not in a run."""
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
    """Quantise a small layer to NF4 where runs would, and see that it still multiplies as it
    did."""
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
    if not error < 0.2:  # nan is not; a uniform 4-bit grid would err by some 10 %
        return fail(
            found,
            "quantization=4bit would be wrong here: install the bitsandbytes of constraints.txt.",
        )
    return ok(found)


def launch_config() -> Finding:
    """accelerate's own config file: `accelerate launch` reads it wherever a flag does not say
    otherwise."""
    import yaml
    from accelerate.commands.config.config_args import default_config_file

    path = Path(default_config_file)
    if not path.is_file():
        return ok(f"none at {path}: the launcher's defaults")
    config = yaml.safe_load(path.read_text("utf-8"))  # of which JSON is a part
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
    """What in the file fights with ours: precision and placement are `hardware.*`'s, and
    torch.compile is nobody's."""
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
