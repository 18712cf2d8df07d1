"""`mvp-align push`: a run's adapter, card, scores and report in a repository of the Hub."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mvp_align.data.terms import LICENCE_ID, shown_terms, training_terms
from mvp_align.errors import UserError
from mvp_align.reporting.html import write_report
from mvp_align.reporting.model_card import known_license, model_card
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runs.stored_config import read_config
from mvp_align.runtime.json_files import from_json

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{20,}\b")
"""How the Hub's tokens look."""
TEXT_SUFFIXES = (".json", ".jsonl", ".html", ".md", ".jinja", ".txt")
CARD = "README.md"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
"""What loads an adapter."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What is to be sent: `files` by their path in the repository."""

    repo: str
    files: Mapping[str, Path]
    card: str
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return a line a file with its size, and what else is to be known before."""
        sizes = {name: path.stat().st_size for name, path in self.files.items()}
        sizes[CARD] = len(self.card.encode())
        width = max(map(len, sizes))
        listed = [f"  {name:<{width}}  {size / 1e3:>11,.1f} kB" for name, size in sizes.items()]
        return [*sorted(listed), *self.notes]


def prepared_upload(
    run: Path, repo: str, license: str | None = None, *, texts: bool = False
) -> Upload:
    """Return what is to be sent of a finished run, its card and report written anew.

    Without `texts` it is `shared/report.html`, which has ids and numbers of pairs alone. Raises
    UserError if the run has no adapter or is unfinished, no licence is given or known, one is no
    name of the Hub, `texts` are asked for that their licence does not allow, or a file holds a
    token.
    """
    folder, config = RunFolder(run, resumed=False, writes=False), read_config(run)
    _check_names(repo, license)
    if not folder.done.is_file():
        raise UserError(f"{run} is unfinished: it has no DONE. The run's command goes on with it.")
    if not folder.adapter.is_dir():
        raise UserError(f"{run} has no adapter of its own, so there is nothing to push.")
    for name in ADAPTER:
        if not (folder.adapter / name).is_file():
            raise UserError(f"{folder.adapter} lacks {name}, so nobody could load the adapter.")
    if license is None and known_license(training_terms(config)) is None:
        said = "\n".join(f"  - {one.title}: {one.said}" for one in training_terms(config))
        raise UserError(
            "The licence of the adapter is not known, because that of its data is not:\n"
            f"{said}\n--license NAME states it, as apache-2.0, or other. See that the data's owners"
            " and the base model's licence allow it."
        )
    closed = [one for one in shown_terms(config) if not one.allows_texts]
    if texts and closed:
        said = "\n".join(f"  - {one.title}: {one.said}" for one in closed)
        raise UserError(
            f"--texts: these licences do not let the texts be passed on:\n{said}\nLeave --texts"
            " out: the report then has ids and numbers of the pairs."
        )
    files = {
        path.name: path
        for path in sorted(folder.adapter.iterdir())
        if path.is_file() and path.name != CARD and not path.name.startswith(".")
    }
    files["metrics.jsonl"] = folder.metrics
    files |= {f"scores/{path.name}": path for path in sorted((run / "scores").glob("*.jsonl"))}
    files["report.html"] = write_report(run, texts=texts)
    card = str(model_card(run, license, repo))
    _refuse_tokens(files, card)
    return Upload(repo, files, card, tuple(_notes(run, texts=texts)))


def _check_names(repo: str, license: str | None) -> None:
    if not REPO_ID.fullmatch(repo):
        raise UserError(f"{repo}: a repository is called OWNER/NAME, as me/llama2-values.")
    if license is not None and not LICENCE_ID.fullmatch(license):
        raise UserError(
            f"--license {license}: the Hub's names of licences are like apache-2.0, cc-by-4.0,"
            " llama2 or other."
        )


def _refuse_tokens(files: Mapping[str, Path], card: str) -> None:
    """Raise UserError if a text among the files holds a token: the user's, or one like it."""
    from huggingface_hub import get_token

    own = (get_token() or "").encode()
    contents = {
        name: path.read_bytes() for name, path in files.items() if path.suffix in TEXT_SUFFIXES
    }
    for name, content in {**contents, CARD: card.encode()}.items():
        if TOKEN.search(content) or (own and own in content):
            raise UserError(
                f"{name} holds what looks like a token of the Hub, so nothing was sent. Revoke it"
                " on the Hub, remove it from the run's files, and push again."
            )


def _notes(run: Path, *, texts: bool) -> Iterator[str]:
    yield (
        "report.html has texts of pairs: questions, answers and profiles."
        if texts
        else "report.html has ids and numbers of pairs, and no texts (--texts)."
    )
    yield "scores/ has ids of users and pairs as the data names them."
    base = Path(read_config(run).model.id)
    if base.exists():
        yield (
            f"The base model is a folder here ({base}), whose path adapter_config.json names:"
            " others cannot load the adapter by it."
        )


def push_upload(upload: Upload, *, public: bool = False) -> str:
    """Send it in one commit, to a repository that is made private unless `public`, and return the
    commit's address. What the repository has already is not sent again.

    Raises UserError if the Hub refuses or does not answer, which it does for the card before
    anything is made, or if the repository is public and `public` was not asked for.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    operations = [CommitOperationAdd(name, str(path)) for name, path in upload.files.items()]
    operations.append(CommitOperationAdd(CARD, upload.card.encode()))
    try:
        _check_card(upload.card)
        api.create_repo(upload.repo, private=not public, exist_ok=True)
        if not public and not api.model_info(upload.repo).private:
            raise UserError(
                f"{upload.repo} is there and public, so nothing was sent: --public says that"
                " everybody may read it."
            )
        commit = api.create_commit(
            upload.repo, operations, commit_message="Add a run's adapter, card, scores and report"
        )
    except UserError:
        raise
    except HfHubHTTPError as error:
        raise UserError(_refusal(upload.repo, error)) from None
    # of the HTTP library, which differs by the Hub's version, of the system, of the Hub's checks
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{api.endpoint}: {first} Nothing is half sent: the same command again goes on."
        ) from None
    return str(commit.commit_url)


def _check_card(card: str) -> None:
    """Ask the Hub whether it takes the card. Raises UserError if it does not."""
    from huggingface_hub import ModelCard

    try:
        ModelCard(card).validate()
    except ValueError as error:
        raise UserError(
            f"the Hub refuses the card: {_reason(str(error))} --license NAME states another"
            " licence."
        ) from None


def _reason(answer: str) -> str:
    """Return what the Hub says of a card in words: its answer is one text, or a list of errors."""
    try:
        said = from_json(answer)
        answer = " ".join(str(error["message"]) for error in said["errors"])
    except (ValueError, KeyError, TypeError):
        pass
    return answer.strip().removesuffix(".") + "."


def _refusal(repo: str, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    remedies = {
        401: "log in with `hf auth login`, or set HF_TOKEN to a token that may write.",
        403: "the token may not write there: make one that may, or name a repository of yours.",
        404: f"{repo.partition('/')[0]} is nobody whom the token may write for.",
        409: "another command is changing it: try again.",
    }
    remedy = remedies.get(status or 0, "try again later; what was sent already is not sent again.")
    return f"{repo}: the Hub refused ({status or type(error).__name__}): {remedy}"
