"""Errors that are not defects. Entry points print them without a traceback."""

from pathlib import Path

from typing_extensions import override


class UserError(Exception):
    """A user's mistake: the message says what was wrong and what to do about it."""


WHAT_TO_TRY = (
    "The weights hold NaN, or computing with them overflows. If the model was trained here: look at"
    " the losses, and train again with a lower train.learning_rate or train.max_grad_norm."
    " Otherwise try hardware.precision=fp32 (fp16 overflows at 65504), and check the model's or"
    " adapter's files."
)
"""Remedies for a model without finite log-probs."""


class AlreadyDone(Exception):
    """The folder holds exactly this run, finished, so there is nothing to do."""

    def __init__(self, path: Path, more: str = "") -> None:
        super().__init__(path, more)

    @override
    def __str__(self) -> str:
        path, more = self.args
        return (
            f"{path} is DONE. To run it again: run.on_exists=overwrite, or another run.name.{more}"
        )


def combined_error(problems: list[str], heading: str) -> UserError:
    """Combine all problems in one message, so that users can fix them at once."""
    shown = problems[:20]
    lines = [heading, *(f"  - {problem}" for problem in shown)]
    if len(problems) > len(shown):
        lines.append(f"  ... and {len(problems) - len(shown)} more of the same file or command.")
    return UserError("\n".join(lines))
