"""The dataset card of preference data: metadata of the Hugging Face Hub, then what was measured.

It holds figures of the data alone. What only its authors know, such as how people agreed to it, is
asked for in the text and not made up.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import DatasetCardData

from mvp_align.data.formats import FORMATS
from mvp_align.data.manifest import MANIFEST, SplitManifest, read_manifest
from mvp_align.data.markdown import markdown_table
from mvp_align.data.part_figures import PartFigures, percentile_names
from mvp_align.data.validation import Validation
from mvp_align.metrics.variables import VARIABLES

SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)  # fmt: skip
"""The Hub's words for numbers of rows below a bound."""
HUB_SPLITS = {"val": "validation", "all": "train"}
SECTIONS = tuple(one.name for one in VARIABLES if one.section)


@dataclass(frozen=True, slots=True)
class Described:
    """What is said of the data and not measured."""

    title: str
    license: str | None
    languages: Sequence[str]


def dataset_card(
    found: Validation, sources: Mapping[str, str], described: Described, folder: Path
) -> str:
    """Return the card, Markdown below YAML, to lie in `folder`.

    Where all `sources` lie in `folder`, its metadata says which files are which split, so that
    `datasets.load_dataset` finds them. Of a manifest beside them, it says how they were split.

    Raises:
        UserError: if that manifest cannot be read.
    """
    manifest = folder / MANIFEST
    split = read_manifest(manifest) if manifest.is_file() else None
    parts = [
        f"---\n{_metadata(found, sources, described, folder).to_yaml()}\n---\n",
        f"# {' '.join(described.title.split())}\n",
        _summary(found),
        "## Parts\n",
        _part_table(found.figures),
        *(["## How it was split\n", _split_text(split)] if split else []),
        *_group_tables(found.figures),
        "## Lengths\n",
        _length_table(found.figures),
        "## Checks\n",
        _check_table(found),
        "## Licence and consent\n",
        _licence_text(described),
    ]
    return "\n".join(parts)


def _metadata(
    found: Validation, sources: Mapping[str, str], described: Described, folder: Path
) -> DatasetCardData:
    pairs = sum(figures.pairs for figures in found.figures)
    size = next((word for bound, word in SIZES if pairs < bound), "n>10M")
    files = _data_files(sources, folder)
    made = DatasetCardData(
        pretty_name=described.title,
        license=described.license,
        language=list(described.languages) or None,
        size_categories=[size],
        task_categories=["text-generation"],
        tags=["preference", "dpo", "personalisation"],
    )
    if files:
        made["configs"] = [{"config_name": "default", "data_files": files}]
    return made


def _data_files(sources: Mapping[str, str], folder: Path) -> list[dict[str, str]]:
    """Return the Hub's list of files by split, or none if one lies elsewhere."""
    files = []
    for part, source in sources.items():
        path = Path(source).expanduser().resolve()
        if not path.exists() or not path.is_relative_to(folder.resolve()):
            return []
        inside = str(path.relative_to(folder.resolve()))
        files.append(
            {
                "split": HUB_SPLITS.get(part, part),
                "path": f"{inside}/*" if path.is_dir() else inside,
            }
        )
    return files


def _summary(found: Validation) -> str:
    pairs = sum(figures.pairs for figures in found.figures)
    lines = [
        f"{pairs:,} pairs of answers to a question: one that a person prefers and one that they do"
        " not."
    ]
    for name in dict.fromkeys(figures.format for figures in found.figures):
        question, chosen, rejected = FORMATS[name].texts
        lines.append(
            f"In the format `{name}` of mvp-align they are `{chosen}` and `{rejected}`, and the"
            f" question is `{question}`."
        )
    return " ".join(lines) + "\n"


def _part_table(figures: Sequence[PartFigures]) -> str:
    head = ["part", "pairs", "people", "questions", "comparisons", "value-blind ceiling, %"]
    head.append("longer answer wins, %")
    rows = []
    for part in figures:
        (whole,) = (one for one in part.groups if not one.group_by)
        rows.append(
            [
                part.part,
                *(f"{n:,}" for n in (part.pairs, part.users, part.questions, part.comparisons)),
                f"{100 * whole.ceiling:.1f}",
                f"{100 * whole.longer:.1f}",
            ]
        )
    return (
        markdown_table(head, rows)
        + "\nA comparison is a question with two answers, whichever way it was decided. The"
        " value-blind ceiling is the highest accuracy of a model that does not know who is asking."
        " Where the longer answer (in characters) wins in half of the pairs, length tells"
        " nothing; a tie counts half.\n"
    )


def _split_text(split: SplitManifest) -> str:
    apart = " and ".join({"user": "person"}.get(name, name) for name in split.apart)
    shares = ", ".join(f"{part} {share:.3g}" for part, share in split.shares.items())
    lines = [
        f"By {apart}, seed {split.seed}, shares of the people: {shares}.",
        *([f"Stratified by {', '.join(split.stratify)}."] if split.stratify else []),
        f"Source: {split.records:,} records, SHA-256 `{split.source_sha256}`.",
        *(f"Left out: {count:,} ({reason})." for reason, count in split.left_out.items()),
        f"`{MANIFEST}` has the hashes of files and people.",
    ]
    return "\n".join(lines) + "\n"


def _group_tables(figures: Sequence[PartFigures]) -> Iterator[str]:
    """Yield the groups of the variables that reports always show, over all parts."""
    for variable in SECTIONS:
        names = list(
            dict.fromkeys(
                one.group for part in figures for one in part.groups if one.group_by == variable
            )
        )
        if not names:
            continue
        rows = []
        for name in names:
            cells = []
            for part in figures:
                one = next(
                    (o for o in part.groups if (o.group_by, o.group) == (variable, name)), None
                )
                cells += [f"{one.pairs:,}", f"{one.users:,}"] if one else ["-", "-"]
            rows.append([name, *cells])
        head = [
            variable,
            *(f"{part.part}, {unit}" for part in figures for unit in ("pairs", "people")),
        ]
        yield f"## By {variable}\n"
        yield markdown_table(head, rows)


def _length_table(figures: Sequence[PartFigures]) -> str:
    rows = [
        [f"{part.part}, {row.text}", row.unit, *(f"{n:,}" for n in row.percentiles.values())]
        for part in figures
        for row in part.lengths
    ]
    head = ["text", "unit", *percentile_names()]
    return markdown_table(head, rows, words=2) if rows else "None: no record could be read.\n"


def _check_table(found: Validation) -> str:
    return markdown_table(
        ["check", "part", "outcome", "found"],
        [[check.check, check.part, check.outcome, check.found] for check in found.checks],
        words=4,
    )


def _licence_text(described: Described) -> str:
    licence = (
        f"Licence: {described.license}."
        if described.license
        else "No licence is stated here: add one before you publish the data."
    )
    return f"{licence} How people agreed to the use of their answers and profiles: [to be added].\n"
