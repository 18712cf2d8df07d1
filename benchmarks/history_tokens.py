"""Count what shared prompts save where earlier choices stand before the question.

`python -m benchmarks.history_tokens [OVERRIDE ...]` prints a table: tokens that a model computes a
test pair of the sample's second draw, with a row for each answer, with the prompt shared by a
pair's two answers (training), and shared by a person's pairs too (scoring, where equal answers to
equal prompts also run once). They are counts, the same on every machine. Overrides are those of
`train.py`, such as another model's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.work import compose, render_and_tokenize, tokens_two_rows
from mvp_align.data.load import load_data
from mvp_align.scoring.logps import score_batches
from mvp_align.training.step import pair_tokens

COUNTS = (0, 1, 2, 4)


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens a pair with this many earlier choices; `prompt` is the median prompt."""

    choices: int
    prompt: float
    apart: float
    by_pair: float
    by_person: float


def count_tokens(choices: int, overrides: Sequence[str] = ()) -> TokenCounts:
    """Count on the same test pairs whatever `choices`: those that are left by the most."""
    support = f"data.support={max(*COUNTS, choices)}"
    words = ["data=sample_several", "evals=in_domain", "prompt=history", support]
    config = compose([*words, f"prompt.choices={choices}", *overrides])
    _, pairs = render_and_tokenize(load_data(config).test, config)
    batches = score_batches(pairs, config.evals.batch_size, share=True)
    scored = sum(row.length for batch in batches for row in batch)
    return TokenCounts(
        choices,
        float(np.median([pair.prompt_tokens for pair in pairs])),
        tokens_two_rows(pairs) / len(pairs),
        sum(map(pair_tokens, pairs)) / len(pairs),
        scored / len(pairs),
    )


def main(overrides: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    table = Table(title="Tokens computed a pair (counted)", title_justify="left")
    for name in ("choices", "prompt, median", "a row an answer", "shared by a pair", "by a person"):
        table.add_column(name, justify="right")
    for choices in COUNTS:
        found = count_tokens(choices, overrides or ())
        shared = (f"{x:.0f} ({found.apart / x:.2f} x)" for x in (found.by_pair, found.by_person))
        table.add_row(str(choices), f"{found.prompt:.0f}", f"{found.apart:.0f}", *shared)
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
