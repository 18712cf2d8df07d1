"""Which pairs several runs scored alike, so that their differences can be taken pair by pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from mvp_align.data.sets import IN_DOMAIN
from mvp_align.errors import UserError
from mvp_align.reporting.finished import STAGES
from mvp_align.reporting.results import unique
from mvp_align.runs.pair_files import PairTexts, read_scores, read_texts
from mvp_align.runs.run_folder import RunFolder, read_environment
from mvp_align.runtime.json_files import to_json
from mvp_align.schema import PairScore


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """The scores of a set by one run, by pair id: of the model that it ends in, and of the base
    where that is another one."""

    name: str
    folder: Path
    stage: str
    scores: Mapping[str, PairScore]
    base: Mapping[str, PairScore]
    """Empty where the run scored one model alone."""
    content: Mapping[str, bytes]
    """Hashes of questions and answers; empty where the folder holds no texts."""
    source: str
    """SHA-256 of the file that the set was read from; "" if unknown."""
    weights: str
    """SHA-256 of the base model; "" if unknown."""
    done: bool


@dataclass(frozen=True, slots=True)
class SharedPairs:
    """`ids` are the pairs that all runs scored, with the same content, in the first run's order."""

    set: str
    runs: tuple[ScoredRun, ...]
    ids: tuple[str, ...]
    changed: tuple[str, ...]
    """Ids that all runs have, of pairs whose content is not the same in all; left out."""
    unproven: tuple[str, ...]
    """Names of runs of which nothing shows that their pairs have the first run's texts."""

    @property
    def users(self) -> list[str]:
        return [self.runs[0].scores[id].user_id for id in self.ids]

    def left_out(self) -> list[str]:
        """Say what of each run is not compared, and what nobody could check; empty if nothing."""
        lines = [
            f"{run.name} has not ended (there is no DONE): these are the scores that it has so far."
            for run in self.runs
            if not run.done
        ]
        if any(len(run.scores) > len(self.ids) for run in self.runs):
            whole = max(len(run.scores) for run in self.runs)
            lines.append(
                f"{self.set}: compared on the {len(self.ids)} pairs that all runs share, of up to"
                f" {whole} in a run."
            )
            lines += [self._lost_by(run) for run in self.runs if len(run.scores) > len(self.ids)]
        if self.unproven:
            lines.append(
                f"Whether {', '.join(self.unproven)} had the same texts as {self.runs[0].name}"
                " under the same ids is not recorded: they are paired by id and person alone."
            )
        return lines

    def _lost_by(self, run: ScoredRun) -> str:
        lost, changed = len(run.scores) - len(self.ids), len(self.changed)
        why = "because another run has other content under the same id"
        reason = f", {f'{changed} of them ' * (changed < lost)}{why}" if changed else ""
        are = "is" if lost == 1 else "are"
        return f"{run.name}: {lost} of its {len(run.scores)} pairs {are} left out{reason}."


def run_names(folders: Sequence[Path]) -> list[str]:
    """Name each run by its folder, with as many folders above it as tell them apart.

    Raises UserError where a folder comes twice.
    """
    whole = [folder.resolve() for folder in folders]
    for folder in whole:
        if whole.count(folder) > 1:
            raise UserError(f"{folder} is named twice: a run is not compared with itself.")
    for depth in range(1, max(len(folder.parts) for folder in whole) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in whole]
        if len(set(names)) == len(names):
            break
    return names


def scored_sets(folders: Sequence[Path]) -> list[str]:
    """Return the whole sets of which every folder holds scores, in the first one's order."""
    found = [_sets_in(folder) for folder in folders]
    return [name for name in found[0] if all(name in others for others in found[1:])]


def _sets_in(folder: Path) -> list[str]:
    names = [path.stem for path in sorted((folder / "groups").glob("*.jsonl"))]
    files = RunFolder(folder, resumed=False, writes=False)
    return [name for name in names if any(files.scores(stage, name).is_file() for stage in STAGES)]


def shared_pairs(folders: Sequence[Path], set_name: str) -> SharedPairs:
    """Find the pairs of a set that all runs scored.

    A pair is the same in two runs if its id, its person, the question and both answers are the
    same: prompt and profile may differ, because that is what runs are compared for. Where a folder
    holds no texts, the same data file proves it. Where the files differ too, or are unknown, a pair
    of another person or, under the same base model, of other token counts is another one, and the
    others count as the same, which `left_out` says.

    Raises UserError if a run has no scores of the set, or if no pair is shared.
    """
    runs = [
        _scored_run(folder, name, set_name)
        for folder, name in zip(folders, run_names(folders), strict=True)
    ]
    first, *others = runs
    common = [id for id in first.scores if all(id in run.scores for run in others)]
    changed = {id for id in common if any(_is_other(first, run, id) for run in others)}
    ids = tuple(id for id in common if id not in changed)
    if not ids:
        raise UserError(_nothing_shared(runs, set_name, len(common)))
    unproven = [run.name for run in others if not all(_is_proven(first, run, id) for id in ids)]
    in_order = tuple(id for id in common if id in changed)
    return SharedPairs(set_name, tuple(runs), ids, in_order, tuple(unproven))


def _nothing_shared(runs: Sequence[ScoredRun], set_name: str, same_ids: int) -> str:
    sizes = ", ".join(f"{run.name} has {len(run.scores)}" for run in runs)
    why = (
        f"{same_ids} ids are in all of them, but of other people, questions or answers"
        if same_ids
        else "no id is in all of them"
    )
    return (
        f"These runs share no pair of {set_name} ({sizes}; {why}), so they cannot be compared pair"
        " by pair. Give them the same data.test, or name runs that were tested on the same pairs."
    )


def _is_other(first: ScoredRun, run: ScoredRun, id: str) -> bool:
    """Whether two runs have different pairs under one id, as far as their folders tell."""
    one, two = first.scores[id], run.scores[id]
    if one.user_id != two.user_id:
        return True
    if id in first.content and id in run.content:
        return first.content[id] != run.content[id]
    if first.source and first.source == run.source:
        return False
    tokens = [(s.chosen_tokens, s.rejected_tokens) for s in (one, two)]
    return bool(first.weights) and first.weights == run.weights and tokens[0] != tokens[1]


def _is_proven(first: ScoredRun, run: ScoredRun, id: str) -> bool:
    same_file = bool(first.source) and first.source == run.source
    return same_file or (id in first.content and id in run.content)


def _content_of(path: Path) -> dict[str, bytes]:
    """Hash the question and both answers of each pair, because the texts of many runs are large."""
    found = read_texts(path) if path.is_file() else {}
    return {
        id: sha256(to_json([texts.question, texts.chosen, texts.rejected]).encode()).digest()
        for id, texts in found.items()
    }


def texts_of_shared(shared: SharedPairs) -> dict[str, PairTexts]:
    """Return the texts of the shared pairs, which are the same in all runs, from the first folder
    that holds them; empty if none does."""
    for run in shared.runs:
        if all(id in run.content for id in shared.ids):
            path = RunFolder(run.folder, resumed=False, writes=False).texts(shared.set)
            return read_texts(path)
    return {}


def _scored_run(folder: Path, name: str, set_name: str) -> ScoredRun:
    files = RunFolder(folder, resumed=False, writes=False)
    stages = [stage for stage in STAGES if files.scores(stage, set_name).is_file()]
    if not stages:
        raise UserError(
            f"{files.scores('tuned', set_name)}: no such file. Has the run ended, and is"
            f" {set_name} among its evals.sets?"
        )
    found = {stage: _by_id(files.scores(stage, set_name)) for stage in stages}
    hashes = read_environment(files.environment_json).get("hashes")
    known: Mapping[str, Any] = hashes if isinstance(hashes, dict) else {}
    return ScoredRun(
        name=name,
        folder=folder,
        stage=stages[-1],
        scores=found[stages[-1]],
        base=found["base"] if len(stages) > 1 else {},
        content=_content_of(files.texts(set_name)),
        source=_source_of(known, set_name),
        weights=str(known.get("base_model") or ""),
        done=files.done.is_file(),
    )


def _by_id(path: Path) -> dict[str, PairScore]:
    scores = read_scores(path)
    if not scores:
        raise UserError(
            f"{path} holds no scores, so there is nothing to compare. Run the evaluation again."
        )
    found = {score.id: score for score in scores}
    if len(found) < len(scores):
        ids = [score.id for score in scores]
        twice = next(id for id in unique(ids) if ids.count(id) > 1)
        raise UserError(f"{path}: pair {twice} comes twice, so nobody can say which is meant.")
    return found


def _source_of(hashes: Mapping[str, Any], set_name: str) -> str:
    """Return the hash of the file that a set was read from, or "".

    A run's own test pairs come from `data.test`, or are held out of `data.train`.
    """
    whole = set_name.partition("/")[0]
    names = ["data/test", "data/train"] if whole == IN_DOMAIN else [f"data/{whole}"]
    return next((str(hashes[name]) for name in names if hashes.get(name)), "")
