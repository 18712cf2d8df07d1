"""Nothing is reported home."""

import os

SETTINGS = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "WANDB_ERROR_REPORTING": "false"}


def switch_off_telemetry() -> None:
    """For every library that asks the environment. Call it before one of them is imported; what is set already stays."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
