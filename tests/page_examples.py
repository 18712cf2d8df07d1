"""Run the examples on pages."""

from pathlib import Path

import numpy as np

from mvp_align.config import Config, Data, Model, Prompt
from mvp_align.data.readers import read_pairs
from mvp_align.metrics.rows import write_rows
from mvp_align.metrics.score_rows import score_rows
from mvp_align.metrics.variables import tags_of
from mvp_align.runs.pair_files import write_groups
from mvp_align.runs.run_folder import open_run
from mvp_align.schema import PairScore


def example_run(folder: Path) -> None:
    """Test users of the bundled sample with random margins, and lifts that depend on the person."""
    pairs = read_pairs("sample:test.json", "mvpbench").pairs
    random = np.random.default_rng(12)
    taste = {user: random.normal(0, 0.5) for user in sorted({pair.user_id for pair in pairs})}
    base, tuned = [], []
    for pair in pairs:
        margin = taste[pair.user_id] + random.normal(0, 0.6)
        for scores, value in ((base, margin), (tuned, margin + 0.3 + 0.4 * taste[pair.user_id])):
            scores.append(PairScore(pair.id, pair.user_id, -20.0, 10 * (-2.0 - value), 10, 10))
    model, prompt = Model("example", "somewhere/example"), Prompt("paper", "{question}")
    run = open_run(
        folder, Config(recipe="evaluate", model=model, data=Data(name="sample"), prompt=prompt)
    )
    run.write_scores("base", "in_domain", base)
    run.write_scores("tuned", "in_domain", tuned)
    write_groups(
        run.groups("in_domain"), [(pair.id, pair.user_id, tags_of(pair)) for pair in pairs]
    )
    write_rows(run.metrics, score_rows("tuned", "in_domain", tuned, {}, base))


def run_callbacks(example: str, model: Path) -> list[str]:
    """Return the classes of callbacks that the example adds to a trainer."""
    from transformers import AutoTokenizer

    added: list[object] = []

    class Trainer:
        add_callback = staticmethod(added.append)

    rows = [{"prompt": "Why?", "chosen": " Because it is so.", "rejected": " No."}]
    tokenizer = AutoTokenizer.from_pretrained(model)
    names = {"trainer": Trainer, "tokenizer": tokenizer, "test_rows": rows}
    exec(compile(example, "page", "exec"), names)
    return [type(callback).__name__ for callback in added]
