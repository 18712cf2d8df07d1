"""All pairs of a run, from its config: read, freed of repeats where asked, split by person, checked for overlap."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mvp_align.config import Config
from mvp_align.data.readers import ReadPairs, drop_repeats, read_pairs
from mvp_align.data.sources import is_there
from mvp_align.data.splits import check_disjoint, split_by_user
from mvp_align.data.subsets import STRATA
from mvp_align.errors import UserError
from mvp_align.schema import PreferencePair


@dataclass(frozen=True, slots=True)
class DataSets:
    """The run's pairs by set, empty where a set is not given. No person stands in two of train, val and test.

    `read` has what was read of each source (keys train, val, test, ufp4), `repeats_dropped` the count for each, and
    `notes` says in sentences what was left out, split or skipped, for the preflight print and the report.
    """

    train: list[PreferencePair] = field(default_factory=list)
    val: list[PreferencePair] = field(default_factory=list)
    test: list[PreferencePair] = field(default_factory=list)
    ufp4: list[PreferencePair] = field(default_factory=list)
    read: dict[str, ReadPairs] = field(default_factory=dict)
    repeats_dropped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def load_data(config: Config) -> DataSets:
    """Read `data.train`, `data.val`, `data.test` and, where `evals.sets` has it, UF-P-4.

    Without `data.test` the share `data.test_share` of the users of `data.train` is held out, the same for the same
    `seed`. `data.limit` and `data.drop_repeats` concern the `data.*` sources, not UF-P-4.

    Raises:
        UserError: nothing to train or test on, a source that cannot be read, or a person on two sides.
    """
    sources = given_sources(config)
    notes: list[str] = []
    for name in ("train", "val"):
        # Evaluating needs the test set only; train and val, where they are there, serve to find people on two sides.
        if config.recipe == "evaluate" and "test" in sources and name in sources and not is_there(sources[name]):
            notes.append(f"{name}: {sources.pop(name)} is not there, so nobody checked that its users are not tested.")
    read = {name: read_pairs(source, config.data.format, config.data.limit) for name, source in sources.items()}
    pairs = {name: result.pairs for name, result in read.items()}
    dropped: dict[str, int] = {}
    if config.data.drop_repeats:
        for name, result in read.items():
            pairs[name], dropped[name] = drop_repeats(result.pairs)
    if "train" in pairs and "test" not in pairs:
        pairs["train"], pairs["test"] = split_by_user(pairs["train"], config.data.test_share, config.seed)
        notes.append(
            f"test: {users(pairs['test'])} of {users(read['train'].pairs)} users of {sources['train']} held out "
            f"(data.test_share={config.data.test_share}, seed={config.seed})."
        )
    check_disjoint({name: kept for name, kept in pairs.items() if kept})
    if "ufp4" in config.evals.sets:
        read["ufp4"] = read_pairs(config.evals.ufp4 or "sample:ufp4", "ufp4")
        pairs["ufp4"] = read["ufp4"].pairs
    for name, result in read.items():
        for reason, count in result.left_out.items():
            notes.append(f"{name}: {count} of {result.records} records left out ({reason}).")
    if config.data.limit is not None:
        notes += head_lines({name: result for name, result in read.items() if name != "ufp4"}, config.data.limit)
    notes += [f"{name}: {count} pairs dropped that repeat an earlier one." for name, count in dropped.items() if count]
    return DataSets(**pairs, read=read, repeats_dropped=dropped, notes=notes)


def given_sources(config: Config) -> dict[str, str]:
    """The `data.*` sources that the config names. Raises UserError where the run would have nothing to work on."""
    data = config.data
    sources = {"train": data.train, "val": data.val, "test": data.test}
    in_domain = config.recipe != "evaluate" or "in_domain" in config.evals.sets
    if in_domain and data.train is None and data.test is None:
        raise UserError(
            "There are no pairs to work on: set data.test=PATH to evaluate, and data.train=PATH to train, with "
            "data.format=mvpbench|ufp4|pairs, or use data=sample."
        )
    return {name: source for name, source in sources.items() if source is not None}


def head_lines(read: Mapping[str, ReadPairs], limit: int) -> list[str]:
    """Where the head of a file, which `data.limit` takes, is of one dimension, level or user type alone."""
    lines = []
    for name, result in read.items():
        values = {group: {pair.groups.get(group) for pair in result.pairs} for group in STRATA}
        alone = [f"{group} {value}" for group, found in values.items() if len(found) == 1 for value in found if value]
        if alone and result.records >= limit:
            lines.append(f"{name}: the first {limit} records (data.limit) are all of {', '.join(alone)}.")
    return lines


def users(pairs: list[PreferencePair]) -> int:
    return len({pair.user_id for pair in pairs})
