"""The whole way of a build on this machine: `python -m mvp_align.construction.demo`.

SmolLM2-135M, behind `transformers serve`, writes pairs for the bundled population. So small a model
writes few that are pairs at all; the build counts the others with their reasons. Pairs of the
population's scores are made too.
"""

import sys
from pathlib import Path

from mvp_align.config import Model
from mvp_align.construction.build import build_pairs
from mvp_align.construction.population import read_population
from mvp_align.construction.records import NoRecords
from mvp_align.construction.score_pairs import build_score_pairs
from mvp_align.construction.writing import Writer, read_task
from mvp_align.errors import UserError
from mvp_align.generation.endpoint import Endpoint
from mvp_align.generation.local_server import serving
from mvp_align.modeling.source import locate_weights
from mvp_align.runtime.folders import packaged_settings
from mvp_align.runtime.preemption import install_signal_handlers

OUT = Path("outputs/demo-build")
QUESTIONS = 2
CONVERSATIONS = 8
MARGIN = 20.0


def smollm2() -> Path:
    """Return the folder of the demo's model. Raises UserError where it is not installed."""
    return Path(locate_weights(Model(**packaged_settings("model", "smollm2_135m"))))


def build_demo(folder: Path, out: Path, conversations: int = CONVERSATIONS) -> list[str]:
    """Build pairs of the bundled population by the model in `folder`, and by the scores.

    Return what was made, as lines to print. That the model wrote not one pair is one of them.
    """
    population = read_population("sample")
    for part in ("scores", "written"):
        (out / part).mkdir(parents=True, exist_ok=True)
    lines = ["", "Pairs of the scores:"]
    lines += build_score_pairs(population, out / "scores", MARGIN)
    lines += ["", f"Pairs that {folder.name} wrote:"]
    with serving(folder) as url:
        endpoint = Endpoint(url, str(folder), concurrency=2, read_seconds=600, total_seconds=600)
        task = read_task(Writer("demo", endpoint, max_tokens=512), QUESTIONS)
        try:
            lines += build_pairs(
                population,
                task,
                out / "written",
                out / "written" / "replies.sqlite",
                limit=conversations,
                limit_usd=0.0,
                yes=False,
            )
        except NoRecords as nothing:
            lines += str(nothing).splitlines()
    return lines


def main() -> int:
    install_signal_handlers()
    try:
        print("\n".join(build_demo(smollm2(), OUT)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
