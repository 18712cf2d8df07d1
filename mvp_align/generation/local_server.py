"""`transformers serve`, an OpenAI-compatible server, for the demo and for tests.

It needs fastapi and openai, which the extra dev installs.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from mvp_align.errors import UserError

START_SECONDS = 240.0


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the model in `folder` on the CPU, on loopback alone; yield the server's base URL.

    Raises UserError if the server does not come up. It is killed at the end.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command: list[str | Path] = [
        Path(sys.executable).with_name("transformers"),
        "serve",
        folder,
        "--host",
        "127.0.0.1",
    ]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--device", "cpu", "--dtype", "float32"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + START_SECONDS
        while True:
            if process.poll() is not None or time.monotonic() > until:
                raise UserError(
                    f"transformers serve {folder} did not come up within {START_SECONDS:g} s. It"
                    " needs fastapi and openai: pip install -e '.[dev]'"
                )
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
