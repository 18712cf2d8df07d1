"""Draw the bundled sample: `python -m mvp_align.data.sample.draw [--out DIR] [--check]`.

Synthetic users, drawn from PRISM's published aggregate figures, answer questions from a bank. The
design and its reasons:

- Each demographic field follows quotas instead of random draws, which could lose small groups among
  280 users.
- Fields are independent, because no joint figures are published. Only `Retired` and `Student`
  depend on age, so that profiles look plausible. Values are independent of all fields, so nothing
  in a profile predicts a value.
- Scores come from a Gaussian copula with margins clipped to 0-100 (hence PRISM's spike at 100). It
  is fitted so that these users themselves, not just the distribution, have the published means,
  standard deviations and correlations.
- A user gets one question for each dimension with a High or Low score. In between, neither answer
  is right.
- Questions are dealt so that all have nearly equal numbers of users and of High and Low ones.
  Otherwise the question alone would seem to predict the preferred answer.
- Splits share neither users nor questions, so a test covers new ones of both. They have similar
  shares of High and Low users on each dimension, which 38 random test users might not have.

A second draw, in `several/`, has the same users and the same questions in each split. A user there
gets six questions of two dimensions, so that earlier choices tell something about the next one.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from mvp_align.data.sample import published
from mvp_align.data.sample.figures import figure_tables
from mvp_align.errors import UserError, combined_error
from mvp_align.runtime.json_files import to_json
from mvp_align.schema import DIMENSIONS, StatedValues, level

SEED = 12
USERS = {"train": 210, "val": 32, "test": 38}
QUESTIONS = {"train": 28, "val": 6, "test": 6}
"""Questions per dimension."""
SEVERAL = 6
"""Questions of a dimension that a user gets in the second draw: all that val and test have."""
OF_DIMENSIONS = 2
"""The dimensions that they are of, where a user is clear about as many."""
ORDERS = 20_000
"""Random orders of the users to try, to find the one with the most balanced splits."""

HERE = Path(__file__).parent

Record = dict[str, Any]
# NumPy guarantees that this generator's stream never changes, unlike default_rng's
Rng = np.random.RandomState


def quotas(counts: Mapping[str, int], total: int) -> dict[str, int]:
    """Scale `counts` to `total` by largest remainders. Among equals, earlier names come first."""
    whole = sum(counts.values())
    floors = {name: count * total // whole for name, count in counts.items()}
    by_remainder = sorted(counts, key=lambda name: -(counts[name] * total % whole))
    for name in by_remainder[: total - sum(floors.values())]:
        floors[name] += 1
    return floors


def _deal(rng: Rng, counts: Mapping[str, int], total: int) -> list[str]:
    hand = [name for name, n in quotas(counts, total).items() for _ in range(n)]
    return [hand[i] for i in rng.permutation(total)]


def _deal_employment(rng: Rng, ages: Sequence[str]) -> list[str]:
    """Deal by quotas, but make only users of 55 or older retired if there are enough.

    Students are younger.
    """
    order = [int(i) for i in rng.permutation(len(ages))]
    old_first = sorted(order, key=lambda i: ages[i] not in ("55-64 years old", "65+ years old"))
    left = quotas(published.EMPLOYMENT, len(ages))
    retired, students = left.pop("Retired"), left.pop("Student")
    free = old_first[retired : len(ages) - students]
    others = [name for name, n in left.items() for _ in range(n)]
    hand = (
        ["Retired"] * retired
        + [others[i] for i in rng.permutation(len(free))]
        + ["Student"] * students
    )
    dealt = dict(zip(old_first, hand, strict=True))
    return [dealt[i] for i in range(len(ages))]


def _fit_scores(rng: Rng, total: int) -> NDArray[np.int64]:
    """Return integer scores [users, dimensions] with the published moments and correlations.

    Clipping shrinks means, standard deviations and correlations, so the latent ones start at the
    published figures and are corrected by the remaining error in each iteration.
    """
    mean, sd = np.array([published.SCORES[d] for d in DIMENSIONS]).T
    wanted = np.eye(len(DIMENSIONS))
    for (a, b), r in published.CORRELATIONS.items():
        i, j = DIMENSIONS.index(a), DIMENSIONS.index(b)
        wanted[i, j] = wanted[j, i] = r
    noise = rng.standard_normal((total, len(DIMENSIONS)))
    noise -= noise.mean(axis=0)
    noise = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise.T))).T
    centre, spread, corr = mean.copy(), sd.copy(), wanted.copy()
    for _ in range(100):  # after 80 iterations, errors are 1e-8
        scores = np.clip(centre + spread * (noise @ np.linalg.cholesky(corr).T), 0, 100)
        centre += mean - scores.mean(axis=0)
        spread *= sd / scores.std(axis=0, ddof=1)
        corr += wanted - np.corrcoef(scores.T)
    whole: NDArray[np.int64] = np.rint(scores).astype(np.int64)
    return whole


def _balanced_order(rng: Rng, scores: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order, of `ORDERS` random ones, whose splits have the most similar levels.

    That compares their shares of High and Low users on each dimension.
    """
    marks = np.array(
        [[[level(int(s)) == wanted for wanted in ("High", "Low")] for s in row] for row in scores]
    )
    starts = np.cumsum([0, *USERS.values()])[:-1]
    sizes = np.array(list(USERS.values()))[:, None, None]
    expected = marks.mean(axis=0) * sizes

    def imbalance(order: NDArray[np.int64]) -> float:
        return float(
            (((np.add.reduceat(marks[order].astype(int), starts) - expected) ** 2) / sizes).sum()
        )

    return min((rng.permutation(len(scores)) for _ in range(ORDERS)), key=imbalance)


def draw_users() -> dict[str, list[Record]]:
    """Return the users of each split.

    A user is the part of a record about the person, with the authors' field names and order.
    """
    rng = np.random.RandomState(SEED)
    total = sum(USERS.values())
    ages = _deal(rng, published.AGE, total)
    fields = {
        "age": ages,
        "gender": _deal(rng, published.GENDER, total),
        "employment_status": _deal_employment(rng, ages),
        "education": _deal(rng, published.EDUCATION, total),
        "marital_status": _deal(rng, published.MARITAL, total),
        "english_proficiency": _deal(rng, published.ENGLISH, total),
        "birth_country/region": _deal(rng, published.BIRTH_COUNTRY, total),
    }
    scores = _fit_scores(rng, total)
    users: list[Record] = []
    for i in range(total):
        stated = {d: int(score) for d, score in zip(DIMENSIONS, scores[i], strict=True)}
        user: Record = {"user_id": f"synthetic-{i + 1:04d}", "stated_prefs": stated}
        user |= {name: column[i] for name, column in fields.items()}
        user |= {
            "self_description": "",
            "system_string": "",
            "preference": StatedValues(**stated).preference(),
        }
        users.append(user)
    order = [users[i] for i in _balanced_order(rng, scores)]
    starts = np.cumsum([0, *USERS.values()])
    return {
        split: order[start : start + USERS[split]]
        for split, start in zip(USERS, starts, strict=False)
    }


def read_questions(dimension: str) -> list[dict[str, str]]:
    path = HERE / "questions" / f"{dimension}.yaml"
    items: list[dict[str, str]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if len(items) != sum(QUESTIONS.values()):
        raise UserError(
            f"{path.name} holds {len(items)} questions; the splits need {sum(QUESTIONS.values())}."
        )
    return [{key: item[key].strip() for key in ("question", "shows", "opposes")} for item in items]


def _ask(
    rng: Rng,
    dimension: str,
    users: Sequence[Record],
    questions: Sequence[dict[str, str]],
    each: int = 1,
) -> list[Record]:
    """Deal `each` questions, one by default, to each user who is High or Low.

    Low users continue with the question after the last High user's.
    """
    shuffled = [users[i] for i in rng.permutation(len(users))]
    levels = {user["user_id"]: level(user["stated_prefs"][dimension]) for user in shuffled}
    asked = [
        user for wanted in ("High", "Low") for user in shuffled if levels[user["user_id"]] == wanted
    ]
    records = []
    for turn, user in enumerate(user for user in asked for _ in range(each)):
        item = questions[turn % len(questions)]
        high = levels[user["user_id"]] == "High"
        answers = {
            "answer_w": item["shows"] if high else item["opposes"],
            "answer_l": item["opposes"] if high else item["shows"],
        }
        records.append({"question": item["question"], **answers, **user, "dimension": dimension})
    return records


def _draw() -> dict[str, list[Record]]:
    """Return the records of the three splits. The result is deterministic."""
    users = draw_users()
    # a separate stream, so that a changed question bank leaves the users unchanged
    rng = np.random.RandomState(SEED + 1)
    records: dict[str, list[Record]] = {split: [] for split in USERS}
    for dimension in DIMENSIONS:
        bank = read_questions(dimension)
        bank = [bank[i] for i in rng.permutation(len(bank))]
        for split, n in QUESTIONS.items():
            part, bank = bank[:n], bank[n:]
            records[split] += _ask(rng, dimension, users[split], part)
    return _numbered(rng, records, "p")


def draw_several(drawn: Mapping[str, Sequence[Record]]) -> dict[str, list[Record]]:
    """Return the records of the second draw. `drawn` is the first, whose splits it keeps."""
    users = draw_users()
    rng = np.random.RandomState(SEED + 2)
    records: dict[str, list[Record]] = {}
    for split, rows in drawn.items():
        there = {row["question"] for row in rows}
        records[split] = []
        for dimension, people in _share_dimensions(rng, users[split]).items():
            part = [item for item in read_questions(dimension) if item["question"] in there]
            part = [part[i] for i in rng.permutation(len(part))]
            records[split] += _ask(rng, dimension, people, part, SEVERAL)
    return _numbered(rng, records, "s")


def _share_dimensions(rng: Rng, users: Sequence[Record]) -> dict[str, list[Record]]:
    """Give each user `OF_DIMENSIONS` of the dimensions that they are High or Low on.

    They are those of which people of their level have the fewest users yet. So the rarer level
    gets about as many as there are, and the question alone tells little.
    """
    found: dict[str, list[Record]] = {dimension: [] for dimension in DIMENSIONS}
    given: Counter[tuple[str, str]] = Counter()
    for i in rng.permutation(len(users)):
        stated = users[i]["stated_prefs"]
        clear = [(d, wanted) for d in DIMENSIONS if (wanted := level(stated[d]))]
        for chosen in sorted(clear, key=lambda one: given[one])[:OF_DIMENSIONS]:
            given[chosen] += 1
            found[chosen[0]].append(users[i])
    return found


def _numbered(
    rng: Rng, records: Mapping[str, Sequence[Record]], prefix: str
) -> dict[str, list[Record]]:
    """Shuffle each split's records, and number them through."""
    numbered, first = {}, 1
    for split, rows in records.items():
        shuffled = [rows[i] for i in rng.permutation(len(rows))]
        numbered[split] = [{"id": f"{prefix}{n}", **row} for n, row in enumerate(shuffled, first)]
        first += len(rows)
    return numbered


def _rendered(records: Mapping[str, Sequence[Record]], folder: str = "") -> dict[str, bytes]:
    """Return each file's content by its name, which starts with `folder`."""
    return {
        f"{folder}{split}.json": (to_json(rows, indent=1) + "\n").encode()
        for split, rows in records.items()
    }


def _check(folder: Path, files: Mapping[str, bytes]) -> None:
    stale = [
        f"{folder / name} {'is not what is drawn' if (folder / name).exists() else 'is missing'}"
        for name, content in files.items()
        if not (folder / name).exists() or (folder / name).read_bytes() != content
    ]
    if stale:
        raise combined_error(
            stale,
            "The sample differs from a fresh draw; run `python -m mvp_align.data.sample.draw`:",
        )


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.part")
        aside.write_bytes(content)
        aside.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw the bundled sample of synthetic users.")
    parser.add_argument(
        "--out", type=Path, default=HERE, help="folder to write to (default: beside this script)"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if the files there differ"
    )
    options = parser.parse_args(arguments)
    try:
        records = _draw()
        several = draw_several(records)
        files = _rendered(records) | _rendered(several, "several/")
        (_check if options.check else _write)(options.out, files)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    users = [user for part in draw_users().values() for user in part]
    for name, table in figure_tables(records, several, users, HERE / "ufp4").items():
        print(f"{name}\n\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
