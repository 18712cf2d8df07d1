"""Commands of `mvp-align data` on pairs before a run: validate, split and card."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mvp_align.errors import UserError, combined_error

if TYPE_CHECKING:
    from mvp_align.data.part_figures import TokenCounts

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...",
        help="A file, a folder of train, val and test, hf:ID:SPLIT or sample:NAME; several may be"
        " written as train=PATH test=PATH.",
    ),
]
DataFormat = Annotated[
    str, typer.Option("--format", help="What data.format takes; auto recognises it.")
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="OURS=THEIRS",
        help="What the records call a column, such as question=prompt; repeatable.",
    ),
]
IN_MESSAGES = re.compile(r"'data\.columns=\{(.*?)\}'")


def column_names(columns: Sequence[str] | None) -> dict[str, str]:
    """Return `--column` options as `data.columns`. Raises UserError for one without both names."""
    named: dict[str, str] = {}
    for text in columns or ():
        ours, _, theirs = text.partition("=")
        if not ours or not theirs:
            raise UserError(f"--column {text}: must be OURS=THEIRS, such as question=prompt.")
        if ours in named:
            raise UserError(f"--column {text}: '{ours}' is taken from '{named[ours]}' already.")
        named[ours] = theirs
    return named


@contextmanager
def settings_as_options() -> Iterator[None]:
    """The reader's messages name the settings `data.format` and `data.columns`, which are options
    here."""
    try:
        yield
    except UserError as error:
        raise UserError(_as_options(str(error))) from None


def _as_options(message: str) -> str:
    message = IN_MESSAGES.sub(lambda found: _column_options(found[1]), message)
    return message.replace("data.format=", "--format ").replace("data.columns", "--column")


def _column_options(mapping: str) -> str:
    return " ".join(f"--column '{pair.replace(': ', '=', 1)}'" for pair in mapping.split(", "))


def validate(
    paths: Sources,
    format: DataFormat = "auto",
    column: Columns = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Count tokens, too: a name of conf/model, a Hub id or a folder."),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(help="A check whose failure is meant, such as 'pairs in two parts'."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One object instead of the tables.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Also write a page to this file.")] = None,
) -> None:
    """Check preference data before training; ends with 1 where a check fails.

    Records, vocabulary, duplicates, answers, lengths, what can be right without knowing who is
    asking, and what is in several parts.
    """
    from mvp_align.data.validation import validate_data
    from mvp_align.reporting.validation_tables import print_validation, write_page
    from mvp_align.runtime.json_files import to_json

    _check_target(html, "--html")
    count_tokens = _token_counts(tokenizer) if tokenizer else None
    sources, columns = _sources(paths), column_names(column)
    with settings_as_options():
        found = validate_data(
            sources, format, columns, accepted=accept or (), count_tokens=count_tokens
        )
    found = replace(found, checks=[replace(c, found=_as_options(c.found)) for c in found.checks])
    if html:
        write_page(found, html)
    if as_json:
        typer.echo(to_json(found.as_object(), indent=2))
    else:
        print_validation(found)
    if not found.passed:
        raise typer.Exit(1)


def split(
    source: Annotated[str, typer.Argument(help="A file, a folder, hf:ID:SPLIT or sample:NAME.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for the parts.")],
    format: DataFormat = "auto",
    column: Columns = None,
    test: Annotated[float, typer.Option(help="Share of the people who are tested.")] = 0.1,
    val: Annotated[float, typer.Option(help="Share of those validated on; 0 for none.")] = 0.1,
    apart: Annotated[
        list[str] | None,
        typer.Option(help="What else no two parts share: country or question; repeatable."),
    ] = None,
    stratify: Annotated[
        str, typer.Option(help="Variables whose groups each part has its share of: level,gender.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Another seed, another split.")] = 12,
) -> None:
    """Split pairs by person into training, validation and test, with a manifest that training
    checks."""
    from mvp_align.data.partition import APART, Wishes
    from mvp_align.data.split_files import split_lines, write_split

    problems = [
        f"--apart {name}: must be one of {', '.join(APART)}."
        for name in apart or ()
        if name not in APART
    ]
    problems += [
        f"--{name} {share:g}: must be {least}, and below 1."
        for name, share, least in (("test", test, "above 0"), ("val", val, "0 or above"))
        if not (0 < share < 1 or (share == 0 and name == "val"))
    ]
    if not problems and test + val >= 1:
        problems.append(f"--test {test:g} and --val {val:g} leave nobody for training.")
    if problems:
        raise combined_error(problems, "This command cannot run:")
    shares = {"train": 1 - test - val, "val": val, "test": test}
    wishes = Wishes(
        {part: share for part, share in shares.items() if share},
        seed,
        [name for name in APART if name in (apart or ())],
        [name.strip() for name in stratify.split(",") if name.strip()],
    )
    with settings_as_options():
        written = write_split(source, format, folder, wishes, column_names(column))
    for line in split_lines(folder, written):
        typer.echo(line)


def card(
    paths: Sources,
    format: DataFormat = "auto",
    column: Columns = None,
    to: Annotated[Path, typer.Option(help="The file to write; it must not exist yet.")] = Path(
        "README.md"
    ),
    title: Annotated[str, typer.Option(help="What the data set is called.")] = "",
    licence: Annotated[
        str | None, typer.Option("--license", help="The Hub's word for it, such as cc-by-4.0.")
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(help="ISO 639-1 code, such as en; repeatable.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Count tokens, too, as `validate` does.")
    ] = None,
) -> None:
    """Write the dataset card of preference data, as the Hugging Face Hub shows it: parts, people,
    lengths, checks, and how it was split."""
    from mvp_align.data.dataset_card import Described, dataset_card
    from mvp_align.data.validation import validate_data
    from mvp_align.runtime.atomic import write_text

    _check_target(to, "--to")
    if to.exists():
        raise UserError(f"{to} exists already, and may hold words of yours: name another --to.")
    count_tokens = _token_counts(tokenizer) if tokenizer else None
    sources, columns = _sources(paths), column_names(column)
    with settings_as_options():
        found = validate_data(sources, format, columns, count_tokens=count_tokens)
    described = Described(title or to.resolve().parent.name, licence, language or ())
    write_text(to, dataset_card(found, sources, described, to.parent))
    typer.echo(to)


def _sources(paths: Sequence[str]) -> dict[str, str]:
    """Return the sources by part, and say which files beside them are passed over."""
    from mvp_align.data.parts import find_parts, passed_over

    sources = find_parts(paths)
    if others := passed_over(paths):
        typer.echo(f"Not looked at, no part by its name: {', '.join(others)}.", err=True)
    return sources


def _check_target(path: Path | None, option: str) -> None:
    """Refuse a file that cannot be written before anything is computed."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        what = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UserError(f"{option} {path}: {what}; name a file in a folder that is there.")


def _token_counts(name: str) -> "TokenCounts":
    """Return what counts tokens by the tokenizer of a model preset, a Hub id or a folder."""
    from mvp_align.config import Model
    from mvp_align.modeling.source import load_tokenizer
    from mvp_align.runtime.folders import find_config
    from mvp_align.runtime.yaml_files import read_yaml

    preset = find_config(f"model/{name}.yaml")
    made = load_tokenizer(read_yaml(preset, Model) if preset else Model(name, name))

    def count_tokens(texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        return [len(ids) for ids in made(list(texts), add_special_tokens=False)["input_ids"]]

    return count_tokens
