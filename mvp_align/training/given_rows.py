"""The rows that callbacks in anybody's trainer are given, as pairs and as an evaluation set."""

from collections.abc import Iterable, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from mvp_align.config import Prompt
from mvp_align.errors import UserError
from mvp_align.evaluation.eval_sets import EvalSet, make_eval_set
from mvp_align.metrics.worst_group import compared_groups
from mvp_align.schema import PreferencePair

Rows = Iterable[Mapping[str, str] | PreferencePair]
"""Mappings with `prompt`, `chosen`, `rejected`, such as a Hugging Face dataset, or pairs."""


def pairs_in(rows: Rows, who: str, groups: Sequence[str] = ()) -> list[PreferencePair]:
    """Convert rows to pairs, with those of the columns `groups` that a row has as its groups.

    A row without `user_id` is taken as one person's. Raises UserError, naming `who` and the row,
    if a text is missing.
    """
    pairs = []
    for number, row in enumerate(rows):
        if isinstance(row, PreferencePair):
            pairs.append(row)
            continue
        for key in ("prompt", "chosen", "rejected"):
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise UserError(
                    f"{who} row {number}, field '{key}': a text is needed, not {row.get(key)!r}."
                )
        pairs.append(
            PreferencePair(
                id=str(number),
                user_id=str(row.get("user_id", number)),
                question=row["prompt"],
                chosen=row["chosen"],
                rejected=row["rejected"],
                groups={name: str(row[name]) for name in groups if row.get(name) is not None},
            )
        )
    return pairs


def eval_set_of(
    name: str,
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    worst_by: str,
    min_users: int,
) -> EvalSet:
    """Build the evaluation set of an OPACallback.

    Raises UserError, naming the row, if a mapping lacks one of its three texts, and if `worst_by`
    is not empty and fewer than two of its groups have `min_users` people.
    """
    context = int(min(tokenizer.model_max_length, 2**31))
    pairs = pairs_in(rows, "OPACallback", worst_by.split("+"))
    subject = make_eval_set(
        name, pairs, prompt, tokenizer, max_prompt_tokens=context, max_tokens=context
    )
    found = compared_groups(*subject.users_and_tags, worst_by, min_users) if worst_by else []
    if worst_by and len(found) < 2:
        raise UserError(
            f"OPACallback: worst_by={worst_by} needs two groups of min_users={min_users} people or"
            f" more, and these rows have {', '.join(found) or 'none'}."
        )
    return subject
