"""What libraries are told before they are imported: to report nothing home, and to keep to
themselves what is not ours.

Only words that ask nothing of anybody are silenced, each by its own text: whatever else a library
says is heard.
"""

import logging
import os
import sys
import warnings
from functools import partial
from pathlib import Path

from mvp_align.errors import UserError

TELEMETRY = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "WANDB_ERROR_REPORTING": "false"}

NOISE = {
    # a kernel for inference on CPUs, which nothing here uses
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    # DeepSpeed is imported by accelerate wherever it is installed, on machines without a GPU too
    "DeepSpeed": "Setting accelerator to CPU.",
}
"""Logger -> how the record begins that is dropped."""


def set_up_libraries() -> None:
    """Call it before one of them is imported; what the environment says already stays, and so does
    `python -W`."""
    for name, value in TELEMETRY.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("WANDB_SILENT", "true")
    for name, beginning in NOISE.items():
        logging.getLogger(name).addFilter(partial(_is_heard, beginning))
    if not sys.warnoptions:
        # Each uses what the other is about to rename.
        warnings.filterwarnings("ignore", category=FutureWarning, module="(transformers|trl|peft)")


def _is_heard(beginning: str, record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(beginning)


def find_home() -> None:
    """Where the user has no home folder, as under a foreign uid in a container, let MVP_ALIGN_CACHE
    be it: libraries would make a folder called `~` where they stand. Raises UserError where that is
    not set either."""
    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)  # an empty one would be the folder that a command runs in
    try:
        Path.home()
    except RuntimeError:
        cache = os.environ.get("MVP_ALIGN_CACHE")
        if not cache:
            raise UserError(
                f"No home folder: HOME is not set, and user {os.getuid()} has none. Models and"
                " log-probs are kept there: set MVP_ALIGN_CACHE=FOLDER, or HOME=FOLDER."
            ) from None
        os.environ["HOME"] = str(Path(cache).absolute())
