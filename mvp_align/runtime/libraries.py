"""Configure libraries before they are imported: no telemetry, and no irrelevant messages.

Only messages that ask nothing of the user are silenced, each by its own text. Everything else still
appears.
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
    # the error is raised again where answers are waited for
    "ContinuousBatchingLogger": "Error in generation loop",
    # a CPU inference kernel that we do not use
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    # accelerate imports DeepSpeed if it is installed, even without a GPU
    "DeepSpeed": "Setting accelerator to CPU.",
    # a line a request, where Hydra has set the level to INFO
    "httpx": "HTTP Request: ",
    # the plan counts the answers that merge with their prompt's last token
    "trl.trainer.dpo_trainer": "The tokenized prompt is not a prefix of the tokenized",
    "trl.trainer.sft_trainer": "The tokenized prompt is not a prefix of the tokenized",
}
"""Logger -> words of the records to drop."""


def set_up_libraries() -> None:
    """Set variables, log filters and warning filters. Call this before importing the libraries.

    Existing variables and `python -W` take precedence.
    """
    for name, value in TELEMETRY.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("WANDB_SILENT", "true")
    for name, words in NOISE.items():
        logging.getLogger(name).addFilter(partial(_is_heard, words))
    if not sys.warnoptions:
        # each uses something that another will rename
        warnings.filterwarnings("ignore", category=FutureWarning, module="(transformers|trl|peft)")


def _is_heard(words: str, record: logging.LogRecord) -> bool:
    return words not in str(record.msg)


def find_home() -> None:
    """Use MVP_ALIGN_CACHE as home folder if the user has none.

    That happens with a foreign uid in a container. Libraries would otherwise create a folder named
    `~` in the current directory. Raises UserError if MVP_ALIGN_CACHE is not set.
    """
    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)  # an empty HOME would mean the current directory
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
