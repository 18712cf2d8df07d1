"""Answer a finished run's pairs by vLLM on this machine: start its server, generate, stop it.

    python slurm/serve.py RUN [options of `mvp-align generate`]

The server answers as `--stage` says (base or tuned, by default tuned), on loopback alone and with a
key of this job. It gets the run's own tokenizer with a chat template that renders the prompts as
this package does. Ends with the exit code of `mvp-align generate`.
"""

import hashlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import typer

from mvp_align import cli
from mvp_align.errors import UserError
from mvp_align.runtime import preemption
from mvp_align.runtime.libraries import set_up_libraries

KEY = "VLLM_API_KEY"
"""The variable that vLLM reads its key from."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM accepts as --max-lora-rank."""
DEFAULTS = {"concurrency": 128, "requests_per_minute": 60000, "reply_seconds": 600}
"""Options of `mvp-align generate`, for a server that is ours alone."""
OURS = ("endpoint", "model", "key_env", "endpoint_name", "engine", "batch_size")
LAST_LINES = 20
GRACE_SECONDS = 15
"""From SIGTERM to SIGKILL."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    name: str
    """What requests ask for, and answers record."""
    options: list[str]
    """Of `vllm serve`, the model first."""


def served_model(run: Path, stage: str, folder: Path) -> ServedModel:
    """Return the run's base or tuned model, with a tokenizer and adapter in `folder`.

    Raises UserError if the run is not finished, or has a model that vLLM would serve differently.
    """
    from mvp_align.data.prompts import server_template
    from mvp_align.modeling.adapter_folder import WEIGHTS, read_adapter
    from mvp_align.modeling.adapter_tokenizer import run_tokenizer
    from mvp_align.modeling.base import run_quantization
    from mvp_align.modeling.packaged import public_name
    from mvp_align.modeling.source import locate_weights
    from mvp_align.runs.run_folder import RunFolder
    from mvp_align.runs.stored_config import model_of, read_config
    from mvp_align.runtime.folders import load_recipe

    config, model = read_config(run), model_of(run)
    kept = RunFolder(run, resumed=True)
    if not kept.done.is_file():
        raise UserError(f"{run} holds no finished run: run its command again, until it is DONE.")
    if (bits := run_quantization(model, config.quantization)) != "none":
        raise UserError(
            f"{run} has a base model in 4 bits ({bits}), and vLLM would answer by another one: use"
            " `mvp-align generate` without a server."
        )
    own = kept.adapter if kept.adapter.is_dir() else config.adapter
    tokenizer = run_tokenizer(model, own)
    tokenizer.chat_template = server_template(config.generation.prompt, tokenizer)
    tokenizer.save_pretrained(folder / "tokenizer")
    options = [locate_weights(model), "--tokenizer", str(folder / "tokenizer")]
    if model.revision:
        options += ["--revision", model.revision]
    if stage == "base":
        name = public_name(model)
        return ServedModel(name, [*options, "--served-model-name", name])

    adapter: Path = load_recipe("generate").adapter_of(kept, config)
    settings = read_adapter(adapter, "adapter")
    rank = max([int(settings["r"]), *map(int, (settings.get("rank_pattern") or {}).values())])
    with (adapter / WEIGHTS).open("rb") as file:
        name = f"tuned-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
    # without the tokenizer that lies beside them, which some versions would use for its requests
    (folder / "adapter").mkdir()
    for file_name in ("adapter_config.json", WEIGHTS):
        (folder / "adapter" / file_name).symlink_to((adapter / file_name).absolute())
    limit = next((known for known in RANKS if known >= rank), rank)
    options += ["--enable-lora", "--lora-modules", f"{name}={folder / 'adapter'}"]
    return ServedModel(name, [*options, "--max-lora-rank", str(limit)])


def vllm_program() -> str:
    program = os.environ.get("MVP_ALIGN_VLLM") or "vllm"
    found = shutil.which(program)
    if found is None:
        raise UserError(
            f"{program}: no such program. Install vLLM into an environment of its own, because it"
            " brings its own torch, and export MVP_ALIGN_VLLM=ENVIRONMENT/bin/vllm."
        )
    return found


@contextmanager
def server(options: Sequence[str], log: Path, minutes: float) -> Iterator[str]:
    """Serve, wait until the server answers, yield its base URL, and stop it at the end.

    Raises UserError with the server's last lines if it dies or is silent for `minutes`, and
    Preempted.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [vllm_program(), "serve", *options, "--host", "127.0.0.1", "--port", str(port)]
    # authors' sampling defaults, such as a repetition penalty, are not applied here either
    command += ["--generation-config", "vllm"]
    command += shlex.split(os.environ.get("MVP_ALIGN_VLLM_OPTIONS", ""))
    print(shlex.join(command), flush=True)
    with log.open("wb") as file:
        # Slurm may signal all processes of a job, and answers in flight still need the server
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_ignore_warning,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log, minutes)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        if process.poll() is not None:
            print(f"The server ended with {process.returncode}:\n{last_lines(log)}", flush=True)
        _stop(process)


def _ignore_warning() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _wait(process: subprocess.Popen[bytes], health: str, log: Path, minutes: float) -> None:
    until = time.monotonic() + 60 * minutes
    while process.poll() is None:
        if preemption.request:
            raise preemption.Preempted(preemption.request.reason)
        if time.monotonic() > until:
            raise UserError(
                f"The server did not answer within {minutes:g} minutes (MVP_ALIGN_VLLM_MINUTES)."
                f" Its last lines:\n{last_lines(log)}"
            )
        with suppress(httpx.TransportError):
            if httpx.get(health, timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(0.5)
    raise UserError("The server did not come up: its last lines are above.")


def last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LAST_LINES:]) or "(it printed nothing)"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and all processes that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """Return the options of `mvp-align generate`, checked before minutes of starting a server."""
    command: Any = typer.main.get_command(cli.app)
    try:
        given: dict[str, Any] = command.commands["generate"].make_context("", [*words]).params
    except Exception:
        generate(words)  # it says what is wrong with them
        raise
    if taken := [name for name in OURS if given[name] is not None]:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in taken)
        raise UserError(f"{names}: this script sets it, or it is not about a server. Leave it out.")
    return given


def generate(words: Sequence[str]) -> None:
    """Run `mvp-align generate`, which exits with its code if that is not 0."""
    sys.argv = ["mvp-align", "generate", *words]
    cli.main()


def _minutes(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"MVP_ALIGN_VLLM_MINUTES={text}: a number belongs there.") from None


def answer(words: Sequence[str]) -> None:
    given = parsed(words)
    minutes = _minutes(os.environ.get("MVP_ALIGN_VLLM_MINUTES") or "30")
    preemption.install_signal_handlers()
    os.environ[KEY] = secrets.token_urlsafe()
    with tempfile.TemporaryDirectory(prefix="mvp-align-vllm-") as scratch:
        folder = Path(scratch)
        model = served_model(given["run"], given["stage"], folder)
        with server(model.options, folder / "log", minutes) as address:
            more = ["--endpoint", address, "--model", model.name, "--key-env", KEY]
            more += ["--endpoint-name", "vllm"]
            for name, value in DEFAULTS.items():
                if given[name] is None:
                    more += [f"--{name.replace('_', '-')}", str(value)]
            generate([*words, *more])


def main() -> None:
    set_up_libraries()
    try:
        answer(sys.argv[1:])
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(2)
    except preemption.Preempted as asked:
        print(f"\nStopped ({asked}) before the server was up.", file=sys.stderr)
        sys.exit(preemption.EXIT_CODE)


if __name__ == "__main__":
    main()
