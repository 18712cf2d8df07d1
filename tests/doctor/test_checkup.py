"""`mvp-align doctor`: real checks of this machine, a local server as Hub, no secrets shown."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from packaging.requirements import Requirement

from mvp_align.doctor import accelerators, machine
from mvp_align.doctor.checkup import checks
from mvp_align.doctor.findings import Finding, ok, run_check, without_secrets

CANARY = "c4n4ryThatNobodyMaySee"
GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
]


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[str]]]:
    """`hub_server(401)`: a local Hub that responds with this status; returns a list of requests."""
    servers: list[ThreadingHTTPServer] = []

    def serve(status: int) -> list[str]:
        seen: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(f"{self.command} {self.path} {self.headers.get('authorization')}")
                body = json.dumps(
                    {"error": f"{self.headers.get('authorization')} said to {status}"}
                ).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        point_at(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        return seen

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def point_at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the API keys of whoever runs the tests."""
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "WANDB_API_KEY",
        "WANDB_BASE_URL",
        "WANDB_MODE",
        "CUDA_VISIBLE_DEVICES",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


# The hub


def test_a_token_is_asked_after(
    hub_server: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = hub_server(200)
    monkeypatch.setenv("HF_TOKEN", f"hf_{CANARY}")
    assert machine.hub(offline=False) == ok("127.0.0.1 reached, token of HF_TOKEN accepted")
    assert seen == [f"GET /api/whoami-v2 Bearer hf_{CANARY}"]


def test_a_token_of_a_login_is_asked_after(
    hub_server: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = hub_server(200)
    (tmp_path / "token").write_text(f"hf_{CANARY}\n")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert (
        machine.hub(offline=False).found == "127.0.0.1 reached, token of `hf auth login` accepted"
    )
    assert seen == [f"GET /api/whoami-v2 Bearer hf_{CANARY}"]


def test_without_a_token_only_the_root_is_requested(
    hub_server: Callable[[int], list[str]],
) -> None:
    seen = hub_server(200)
    finding = machine.hub(offline=False)
    assert (finding.level, finding.found) == ("warn", "127.0.0.1 reached, no token")
    assert seen == ["HEAD / None"]


@pytest.mark.parametrize(
    ("status", "level"), [(401, "fail"), (403, "fail"), (429, "warn"), (503, "warn")]
)
def test_a_refused_token_fails_and_a_busy_hub_warns(
    status: int, level: str, hub_server: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_server(status)
    monkeypatch.setenv("HF_TOKEN", f"hf_{CANARY}")
    finding = machine.hub(offline=False)
    assert finding.level == level and finding.remedy
    assert CANARY not in str(finding)


def test_no_network_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    point_at(f"http://127.0.0.1:{port}", monkeypatch)  # nobody listens any more
    finding = machine.hub(offline=False)
    assert (finding.level, finding.found) == ("warn", "127.0.0.1 not reached (ConnectError)")
    assert "HF_HUB_OFFLINE=1" in finding.remedy


def test_a_silent_hub_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_at(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        start = time.monotonic()
        finding = machine.hub(offline=False)
    assert finding.level == "warn" and "not reached (" in finding.found
    assert time.monotonic() - start < 3


def test_hanging_work_times_out() -> None:
    released = threading.Event()
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        machine.run_with_timeout(0.2, lambda: released.wait(30))
    assert time.monotonic() - start < 5
    released.set()
    assert machine.run_with_timeout(5, lambda: "done") == "done"
    with pytest.raises(KeyError):
        machine.run_with_timeout(5, lambda: {}["absent"])


def test_a_token_that_no_header_can_hold_is_not_quoted(
    hub_server: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP libraries quote the header that they refuse."""
    seen = hub_server(200)
    monkeypatch.setenv("HF_TOKEN", f"hf_{CANARY}\x01é")
    finding = machine.hub(offline=False)
    assert (finding.level, seen) == ("warn", [])
    assert CANARY not in str(finding)


def test_offline_asks_nobody(
    hub_server: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = hub_server(200)
    assert machine.hub(offline=True) == ok("not asked (--offline)")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert machine.hub(offline=False).found.startswith("not asked: HF_HUB_OFFLINE is set")
    assert seen == []


# W&B


def test_wandb_keys_are_found_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert machine.wandb_login().found.startswith("no key")
    path = tmp_path / "netrc"
    path.write_text(f"machine elsewhere.org login user password {CANARY}\n")
    assert machine.wandb_login().found.startswith("no key")
    path.write_text(f"machine api.wandb.ai login user password {CANARY}\n")
    kept = (
        f"key for api.wandb.ai in {path}: runs are tracked offline, online with WANDB_MODE=online"
    )
    assert machine.wandb_login() == ok(kept)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8443/x")
    assert machine.wandb_login().found.startswith("no key")
    path.write_text(f"machine api.wandb.ai login user passwort {CANARY}\n")
    finding = machine.wandb_login()
    assert (finding.level, finding.found) == ("warn", f"{path}, line 1: broken")
    assert CANARY not in str(finding)
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    assert machine.wandb_login() == ok("key in WANDB_API_KEY: runs are tracked online")


def test_wandb_variables_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert machine.wandb_login() == ok("WANDB_MODE=offline: runs are tracked offline")
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert machine.wandb_login() == ok("WANDB_DISABLED=true: no run is tracked")


def test_variables_in_effect_are_shown_and_contradictions_warned_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [
        name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_", "ACCELERATE_"))
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.variables() == ok("HF_HUB_OFFLINE=1, CUDA_VISIBLE_DEVICES=")
    monkeypatch.setenv("WANDB_MODE", "shared")
    monkeypatch.setenv("TRANSFORMERS_CACHE", "/scratch")
    finding = machine.variables()
    assert (finding.level, finding.found) == (
        "warn",
        "HF_HUB_OFFLINE=1, WANDB_MODE=shared, CUDA_VISIBLE_DEVICES=",
    )
    assert "WANDB_MODE=shared: must be one of" in finding.remedy
    assert "TRANSFORMERS_CACHE is read by no library" in finding.remedy


# Software


def test_what_is_installed_here_is_within_bounds() -> None:
    assert machine.python().level == "ok"
    assert machine.packages().level in ("ok", "warn")
    assert machine.pinned(machine.CONSTRAINTS)["torch"].count(".") == 2


def test_versions_out_of_bounds_are_named() -> None:
    assert machine.bound_problem(Requirement("torch>=2.6")) is None
    assert (
        machine.bound_problem(Requirement("torch>=99")) == f"torch {torch.__version__}, needed >=99"
    )
    assert (
        machine.bound_problem(Requirement("no-such-package>=1"))
        == "no-such-package is not installed"
    )


def test_versions_that_were_not_tested_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "CONSTRAINTS", tmp_path / "constraints.txt")
    assert "as tested" not in machine.packages().found
    (tmp_path / "constraints.txt").write_text("# tested\nnumpy==1.0.0\nabsent==3\n")
    finding = machine.packages()
    assert (
        finding.level == "warn"
        and "(1.0.0 tested)" in finding.found
        and "absent" not in finding.found
    )


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (
            {
                "mixed_precision": "no",
                "distributed_type": "NO",
                "num_machines": 1,
                "num_processes": 1,
            },
            [],
        ),
        ({"mixed_precision": False, "dynamo_config": {}}, []),
        ({"mixed_precision": "bf16"}, ["mixed_precision: bf16"]),
        (
            {"distributed_type": "DEEPSPEED", "num_machines": 2},
            ["distributed_type: DEEPSPEED", "num_machines: 2"],
        ),
        ({"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, ["dynamo_backend: INDUCTOR"]),
    ],
)
def test_conflicts_in_accelerate_s_config(config: dict[str, object], named: list[str]) -> None:
    assert accelerators.launch_problems(config) == named


@pytest.mark.parametrize(
    ("content", "level"),
    [
        (None, "ok"),
        ({"mixed_precision": "no"}, "ok"),
        ({"mixed_precision": "fp16"}, "warn"),
        ([], "warn"),
    ],
)
def test_accelerates_file_is_found_where_accelerate_looks(
    content: object, level: str, tmp_path: Path
) -> None:
    folder = tmp_path / "accelerate"
    folder.mkdir()
    if content is not None:
        (folder / "default_config.yaml").write_text(yaml.safe_dump(content))
    code = (
        "from mvp_align.doctor.accelerators import launch_config as c; f = c(); print(f.level,"
        " f.found)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (
        done.stdout.startswith(f"{level} ") and str(folder / "default_config.yaml") in done.stdout
    ), done.stderr


def test_four_bit_layers_work_here() -> None:
    finding = accelerators.four_bit()
    assert finding.level == "ok" and "NF4 within" in finding.found


def test_a_four_bit_layer_that_multiplies_wrongly_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes.nn import Linear4bit

    monkeypatch.setattr(
        Linear4bit, "forward", lambda self, x: torch.full((len(x), 128), float("nan"))
    )
    assert accelerators.four_bit().level == "fail"


@pytest.mark.parametrize("check", [accelerators.torch_build, accelerators.gpus, accelerators.nccl])
def test_this_machines_accelerators(check: Callable[[], Finding]) -> None:
    finding = check()
    assert finding.level in ("ok", "warn") and finding.found


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_are_no_failure(
    hidden: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A driver that answers, and a torch that sees no GPU."""
    if torch.cuda.is_available():
        pytest.skip("this machine's torch sees a GPU")
    program(tmp_path / "nvidia-smi", "echo 580.65.06", monkeypatch)
    finding = accelerators.torch_build()
    assert finding.level == "fail" and "driver 580.65.06, but torch reaches no GPU" in finding.found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert accelerators.torch_build().level == "warn"


@pytest.mark.parametrize("", [pytest.param(marks=GPU)])
def test_gpus_are_named() -> None:
    finding = accelerators.gpus()
    assert torch.cuda.get_device_name(0) in finding.found and "capability" in finding.found
    assert "driver none" not in accelerators.torch_build().found
    assert accelerators.nccl().level in ("ok", "warn")
    assert "on cuda" in accelerators.four_bit().found


def test_a_gpu_without_memory_left_is_a_warning_and_other_errors_are_not() -> None:
    """A health check beside a run that fills the GPU must not call the container ill."""

    def full() -> Finding:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    def broken() -> Finding:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    assert accelerators.warn_if_gpu_full(full).level == "warn"
    with pytest.raises(RuntimeError, match="no kernel image"):
        accelerators.warn_if_gpu_full(broken)


# The machine


def program(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of this name first on PATH."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def test_slurm_is_found_or_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(tmp_path / "sbatch", "echo slurm 24.05.1", monkeypatch)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert machine.slurm() == ok("slurm 24.05.1")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert machine.slurm() == ok("slurm 24.05.1, in job 77")
    program(tmp_path / "sbatch", "echo 'sbatch: error: no controller' >&2; exit 1", monkeypatch)
    assert (machine.slurm().level, machine.slurm().found) == (
        "warn",
        "sbatch: error: no controller",
    )
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert machine.slurm().found.startswith("none")


def test_disks(mount_disk: Callable[[str], Path]) -> None:
    assert machine.disk(Path("/proc/nowhere"), 1, "X=FOLDER").level == "fail"  # free: 0
    small = mount_disk("64m")
    finding = machine.disk(small / "not" / "yet", 1, "X=FOLDER")
    assert (finding.level, finding.found) == ("fail", f"0.1 GB free at {small}/not/yet")
    assert "X=FOLDER" in finding.remedy
    subprocess.run(["mount", "-o", "remount,size=800m", small], check=True)
    assert machine.disk(small, 1, "X=FOLDER").level == "warn"
    assert machine.disk(small, 0.6, "X=FOLDER").level == "ok"
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    finding = machine.disk(small, 0.6, "X=FOLDER")
    assert finding.level == "fail" and "not writable" in finding.found


def test_memory_is_read_from_the_kernel() -> None:
    free = machine.machine_memory()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0.01 * total < free < total
    assert machine.group_memory() > 0
    assert machine.memory().found.endswith(" GB free")


# All of it


def test_a_crashing_check_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", CANARY)

    def broken() -> Finding:
        raise RuntimeError(f"no {CANARY} at http://user:pass-word@proxy:3128\nand more")

    finding = run_check("memory", broken)
    assert (finding.check, finding.level) == ("memory", "fail")
    assert finding.found == "RuntimeError: no REDACTED at http://REDACTED@proxy:3128"

    def empty() -> Finding:
        raise ValueError

    assert run_check("x", empty).found == "ValueError: no message"


def test_secrets_are_redacted_in_every_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    assert (
        without_secrets(f"{CANARY} hf_abcdefghijk sk-abcdefghijk") == "REDACTED REDACTED REDACTED"
    )
    assert without_secrets("7.0 GB free at /a/b") == "7.0 GB free at /a/b"


def doctor(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mvp_align.cli", "doctor", *words]
    return subprocess.run(
        command,
        env={**os.environ, "COLUMNS": "150", **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_whole_checkup_shows_no_secret_and_takes_seconds(
    hub_server: Callable[[int], list[str]], tmp_path: Path
) -> None:
    seen = hub_server(401)
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {CANARY}\n")
    start = time.monotonic()
    done = doctor(
        HF_TOKEN=f"hf_{CANARY}",
        WANDB_API_KEY=CANARY,
        OPENAI_API_KEY=CANARY,
        HF_ENDPOINT=constants.ENDPOINT,
        HF_HUB_OFFLINE="0",
        HF_HOME=str(tmp_path / CANARY),  # a folder may bear the name of a secret by mistake
    )
    assert time.monotonic() - start < 60
    assert done.returncode == 1  # the token is refused
    assert seen == [f"GET /api/whoami-v2 Bearer hf_{CANARY}"]
    assert CANARY not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "127.0.0.1 reached, token of HF_TOKEN refused" in done.stdout
    for name in checks(offline=False):
        assert name in done.stdout


def test_offline_and_json(tmp_path: Path) -> None:
    done = doctor("--offline", "--json", HF_TOKEN=f"hf_{CANARY}", HF_HOME=str(tmp_path))
    findings = json.loads(done.stdout)
    assert [finding["check"] for finding in findings] == list(checks(offline=True))
    assert {
        "check": "Hugging Face hub",
        "level": "ok",
        "found": "not asked (--offline)",
        "remedy": "",
    } in findings
    assert done.returncode == int(any(finding["level"] == "fail" for finding in findings))
    assert CANARY not in done.stdout + done.stderr
