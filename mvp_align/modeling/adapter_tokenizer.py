"""Choose the run's tokenizer: the model's, or the adapter's own if that differs."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mvp_align.config import Model
from mvp_align.errors import UserError
from mvp_align.modeling.adapter_folder import resized_vocabulary
from mvp_align.modeling.packaged import public_name
from mvp_align.modeling.source import load_model_config, load_tokenizer

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
PROBE = "Question: why, and who?\n  It's 12:30 -- naïve, 東京 <s></s>"


def run_tokenizer(model: Model, adapter: str | Path | None) -> PreTrainedTokenizerBase:
    """Return the adapter's tokenizer if it has its own, and the model's otherwise.

    The adapter's counts as its own if it differs from the model's. Raises UserError if a tokenizer
    cannot be read, or has tokens without an embedding in the model.
    """
    of_model = load_tokenizer(model)
    own = _adapter_tokenizer(Path(adapter), of_model) if adapter else None
    if own is None or not differences(of_model, own):
        return of_model
    tokens, rows = (
        max(own.get_vocab().values()) + 1,
        int(load_model_config(model).get_text_config().vocab_size),
    )
    if tokens > rows:
        raise resized_vocabulary(f"adapter={adapter}", tokens, public_name(model), rows)
    return own


def tokenizer_notes(
    model: Model, path: Path, setting: str, used: PreTrainedTokenizerBase
) -> list[str]:
    """Return a note if the adapter in `path` brings a different tokenizer.

    `used` is the run's tokenizer. A starting adapter is compared with the model's tokenizer, a
    reference with the run's.
    """
    of_model = load_tokenizer(model)
    own = _adapter_tokenizer(path, of_model)
    if own is None:
        return []
    if setting == "adapter":
        unlike = differences(of_model, own)
        return (
            [f"tokenizer: the adapter's, not {public_name(model)}'s; {', '.join(unlike)}"]
            if unlike
            else []
        )
    unlike = differences(used, own)
    return (
        [f"{setting}={path} brings a tokenizer that is not used; {', '.join(unlike)}"]
        if unlike
        else []
    )


def _adapter_tokenizer(
    path: Path, of_model: PreTrainedTokenizerBase
) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer in an adapter's folder, or None if there is none.

    If it has no chat template, it gets the model's. Raises UserError if it cannot be read.
    """
    if not any((path / name).is_file() for name in FILES):
        return None
    try:
        own: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(
            f"adapter={path}: the tokenizer there cannot be read ({text}). Copy the adapter again,"
            " or remove tokenizer files from its folder if it was trained with the model's own."
        ) from error
    own.chat_template = own.chat_template or of_model.chat_template
    if own.pad_token_id is None:
        own.pad_token = own.eos_token
    own.padding_side = "right"
    return own


def differences(of_model: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase) -> list[str]:
    """List the differences between two tokenizers that can change a score. Padding cannot."""
    found = []
    ours, theirs = of_model.get_vocab(), own.get_vocab()
    if ours != theirs:
        more = sorted(theirs.keys() - ours.keys(), key=lambda token: theirs[token])
        named = f", such as {' '.join(more[:3])}" if more else ""
        found.append(
            f"vocabulary ({len(more)} more tokens{named}; {len(ours.keys() - theirs.keys())} fewer)"
        )
    if own.chat_template != of_model.chat_template:
        found.append("chat template")
    for name in ("bos_token", "eos_token"):
        if getattr(own, name) != getattr(of_model, name):
            found.append(f"{name} {getattr(own, name)}, not {getattr(of_model, name)}")
    if ours == theirs and own(PROBE).input_ids != of_model(PROBE).input_ids:
        found.append("how text is cut into tokens")
    return found
