"""Load all pairs of a run: read them, drop repeats if asked, split by user, check overlap."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

from mvp_align.config import Config
from mvp_align.data.counterfactuals import counterfactual_pairs
from mvp_align.data.formats.record import names_person
from mvp_align.data.histories import choices_needed, count_lines, normalised, with_choices
from mvp_align.data.manifest import check_manifests
from mvp_align.data.readers import ReadPairs, drop_repeats, read_pairs
from mvp_align.data.sets import IN_DOMAIN, SETS, chosen_sets, no_files, set_source
from mvp_align.data.sources import open_source, source_exists
from mvp_align.data.splits import check_disjoint, split_by_user
from mvp_align.data.subsets import STRATA
from mvp_align.errors import UserError
from mvp_align.runtime.recipes import recipe_named
from mvp_align.schema import PreferencePair


@dataclass(frozen=True, slots=True)
class DataSets:
    """The run's pairs by set; empty if a set is not given. Train, val and test share no users.

    `out_of_domain` has those of `evals.sets`, by name. `read` has what was read of each source
    (keys train, val, test and the sets out of domain), and `notes` says in sentences what was left
    out, split, skipped or not read, for the preflight print and the report.
    """

    train: list[PreferencePair] = field(default_factory=list)
    val: list[PreferencePair] = field(default_factory=list)
    test: list[PreferencePair] = field(default_factory=list)
    out_of_domain: dict[str, list[PreferencePair]] = field(default_factory=dict)
    read: dict[str, ReadPairs] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def by_set(self) -> dict[str, list[PreferencePair]]:
        """The pairs to evaluate on, by the names of `data.sets`."""
        return {IN_DOMAIN: self.test, **self.out_of_domain}

    @property
    def prompt_sets(self) -> list[str]:
        """Sets whose records name no user, so that prompts are counted and resampled instead."""
        return [
            name
            for name, pairs in self.by_set.items()
            if pairs and not any(map(names_person, pairs))
        ]


def load_data(config: Config) -> DataSets:
    """Read `data.train`, `data.val`, `data.test` and the out-of-domain sets of `evals.sets`.

    Without `data.test`, the share `data.test_share` of the users of `data.train` is held out, the
    same ones for the same `seed`. `data.limit` and `data.drop_repeats` apply to `data.*` sources
    only.

    Raises:
        UserError: if there is nothing to train or test on, a source cannot be read, a user is in
            two of the sets, or a source is not what the manifest of its split says.
    """
    sources = _given_sources(config)
    notes: list[str] = []
    for name in ("train", "val"):
        # Evaluation needs only the test set. If train and val exist, they are checked for shared
        # users.
        if (
            not recipe_named(config.recipe).trains
            and "test" in sources
            and name in sources
            and not source_exists(sources[name])
        ):
            notes.append(
                f"{name}: {sources.pop(name)} is not there, so nobody checked that its users are"
                " not tested."
            )
    read = {
        name: read_pairs(
            source,
            config.data.format,
            config.data.limit,
            columns=config.data.columns,
            values=config.data.values,
        )
        for name, source in sources.items()
    }
    notes += check_manifests(sources, read)
    pairs = {name: result.pairs for name, result in read.items()}
    dropped: dict[str, int] = {}
    if config.data.drop_repeats:
        for name, result in read.items():
            pairs[name], dropped[name] = drop_repeats(result.pairs)
    notes += [
        f"{name}: recognised as {result.form} (data.format={result.format})."
        for name, result in read.items()
        if result.form
    ]
    notes += _person_notes(pairs, is_split="test" not in pairs)
    if "train" in pairs and "test" not in pairs:
        pairs["train"], pairs["test"] = split_by_user(
            pairs["train"], config.data.test_share, config.seed
        )
        notes.append(
            f"test: {_users(pairs['test'])} of {_users(read['train'].pairs)} users of"
            f" {sources['train']} held out (data.test_share={config.data.test_share},"
            f" seed={config.seed})."
        )
    check_disjoint({name: kept for name, kept in pairs.items() if kept})
    pairs, of_histories = with_choices(pairs, config)
    if config.data.counterfactual != "none" and recipe_named(config.recipe).trains:
        made, lines = _counterfactuals(pairs["train"], config.data.counterfactual)
        pairs["train"], notes = pairs["train"] + made, notes + lines
    others = {
        name: read_out_of_domain(name, set_source(name, config))
        for name in chosen_sets(config)
        if SETS[name].out_of_domain
    }
    read |= others
    for name, result in read.items():
        for reason, count in result.left_out.items():
            notes.append(f"{name}: {count} of {result.records} records left out ({reason}).")
        if result.unread:
            keys = ", ".join(f"{key} in {count}" for key, count in result.unread.items())
            notes.append(f"{name}: keys that are not read, of {result.records} records: {keys}.")
    if config.data.limit is not None:
        notes += _head_lines(
            {name: result for name, result in read.items() if name not in others}, config.data.limit
        )
    notes += [
        f"{name}: {count} pairs dropped that repeat an earlier one."
        for name, count in dropped.items()
        if count
    ]
    notes += of_histories
    out_of_domain = {name: result.pairs for name, result in others.items()}
    notes += count_lines(out_of_domain, choices_needed(config))
    return DataSets(
        **pairs,
        out_of_domain=out_of_domain,
        read=read,
        notes=notes,
    )


def _counterfactuals(
    train: list[PreferencePair], flips: str
) -> tuple[list[PreferencePair], list[str]]:
    """Return the counterfactual pairs of the training pairs, and notes.

    Raises UserError if no pair has a counterpart.
    """
    made, left_out = counterfactual_pairs(train, flips)
    setting = f"data.counterfactual={flips}"
    reasons = [f"{count} training pairs have none (each {why})" for why, count in left_out.items()]
    if not made:
        raise UserError(
            f"{setting}: no training pair has a counterpart: {'; '.join(reasons)}."
            + " data.counterfactual=all needs no dimension." * (flips == "dimension")
        )
    added = f"train: {len(made)} counterfactual pairs added ({setting}): assumed, nobody's answers."
    return made, [added, *(f"train: {reason}." for reason in reasons)]


def read_out_of_domain(name: str, source: str | None) -> ReadPairs:
    """The pairs of a set out of domain, from where they lie.

    Raises UserError where that is not given, is the bundled stand-in of the set, or holds other
    files than the set consists of.
    """
    known = SETS[name]
    if source is None:
        raise UserError(no_files(name))
    read = read_pairs(source, known.format)
    for stand_in, other in SETS.items():
        if other.stands_in_for == name and read.sha256 == open_source(other.source).sha256:
            raise UserError(
                f"evals.{name}={source} holds the bundled synthetic stand-in: that is"
                f" evals.sets=[{stand_in}]."
            )
    found = {pair.groups.get("user_type", "") for pair in read.pairs}
    wanted = set(known.user_types)
    if wanted and found != wanted:
        wrong = [f"lacks {one}.json" for one in sorted(wanted - found)] + [
            f"also holds {one or 'other'}.json" for one in sorted(found - wanted)
        ]
        raise UserError(
            f"evals.{name}={source}: {known.files} belong there, and this folder"
            f" {', '.join(wrong)}."
            + f" `mvp-align data fetch {known.public}` fetches them."
            * bool(known.public)
        )
    return read


def _person_notes(pairs: Mapping[str, list[PreferencePair]], is_split: bool) -> list[str]:
    """Note where prompts replace users, and where almost equal ids count as several users."""
    notes = []
    for name, found in pairs.items():
        unnamed = sum(not names_person(pair) for pair in found)
        if unnamed == len(found) > 0:
            how = "split by prompt" if name == "train" and is_split else "each prompt counts as one"
            notes.append(f"{name}: no record names a person (user_id): {how}.")
        elif unnamed:
            notes.append(
                f"{name}: {unnamed} of {len(found)} records name no person (user_id): each of their"
                " prompts counts as one."
            )
    spellings: dict[str, set[str]] = {}
    for pair in chain(*pairs.values()):
        spellings.setdefault(normalised(pair.user_id), set()).add(pair.user_id)
    alike = [sorted(names) for names in spellings.values() if len(names) > 1]
    if alike:
        shown = "; ".join(", ".join(map(repr, names)) for names in alike[:3]) + (
            "; ..." if len(alike) > 3 else ""
        )
        notes.append(
            "user ids that differ in case, spaces or encoding alone count as different people,"
            f" {len(alike)} times: {shown}."
        )
    return notes


def _given_sources(config: Config) -> dict[str, str]:
    """Return the `data.*` sources in the config.

    Raises UserError if the run would have no pairs.
    """
    data = config.data
    sources = {"train": data.train, "val": data.val, "test": data.test}
    in_domain = recipe_named(config.recipe).trains or IN_DOMAIN in chosen_sets(config)
    if in_domain and data.train is None and data.test is None:
        raise UserError(
            "There are no pairs to work on: set data.test=PATH to evaluate, and data.train=PATH to"
            " train, or use data=sample."
        )
    return {name: source for name, source in sources.items() if source is not None}


def _head_lines(read: Mapping[str, ReadPairs], limit: int) -> list[str]:
    """Note sets where the records that `data.limit` keeps share a dimension, level or user type."""
    lines = []
    for name, result in read.items():
        values = {group: {pair.groups.get(group) for pair in result.pairs} for group in STRATA}
        alone = [
            f"{group} {value}"
            for group, found in values.items()
            if len(found) == 1
            for value in found
            if value
        ]
        if alone and result.records >= limit:
            lines.append(
                f"{name}: the first {limit} records (data.limit) are all of {', '.join(alone)}."
            )
    return lines


def _users(pairs: list[PreferencePair]) -> int:
    return len({pair.user_id for pair in pairs})
