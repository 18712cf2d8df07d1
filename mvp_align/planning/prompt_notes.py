"""What a plan says of the way in which prompts are written."""

from transformers import PreTrainedTokenizerBase

from mvp_align.config import Config
from mvp_align.data.load import DataSets


def chat_notes(config: Config, data: DataSets, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Say where the model's chat template writes prompts although the command did not ask for it,
    and what prompt=auto means for this model."""
    pairs = [*data.train, *(pair for found in data.by_set.values() for pair in found)]
    notes = []
    if config.prompt.chat == "auto":
        notes.append(
            "prompt.chat=auto: prompts are a user's turn in the model's chat template"
            if tokenizer.chat_template
            else "prompt.chat=auto: the model has no chat template, and prompts are plain text"
        )
    conversations = sum(pair.shown_as == "chat" for pair in pairs)
    if conversations:
        notes.append(
            f"{conversations} of {len(pairs)} pairs are conversations: the model's chat template"
            " writes them, and the end of each answer's turn, which is trained and scored too"
        )
    return notes
