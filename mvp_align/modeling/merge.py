"""An adapter folded into its base: one plain model that any server loads."""

from pathlib import Path

import torch

from mvp_align.config import Model
from mvp_align.errors import UserError
from mvp_align.modeling.adapters import load_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import DTYPES, Placement
from mvp_align.modeling.source import load_tokenizer
from mvp_align.schema import PairScore, PromptedPair
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.tokens import tokenize_pairs

TOLERANCE = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.02}
"""Nats a token by which a merged model may differ from base and adapter, by the precision it is written in."""

PROBE = PromptedPair(
    id="probe",
    user_id="probe",
    prompt="Question: What should I look at before I sign a rental contract?",
    chosen="Read the whole contract, note the length of notice, and ask who pays for repairs.",
    rejected="Most people sign it and see what happens; these papers are all alike.",
)


def merge(model: Model, adapter: Path, target: Path, precision: str) -> float:
    """Write base and adapter as one safetensors model to `target`, merged in fp32 and stored in `precision`.

    The base is always loaded unquantised: merging into 4 bits would round the adapter away (huggingface/peft#2321).
    Returns the largest difference in mean log-prob (nats a token) between the two on a probe pair.
    Raises UserError where `target` exists or the difference is above `TOLERANCE`.
    """
    if target.exists():
        raise UserError(f"{target} exists already: choose another folder, or delete it.")
    placement = Placement(torch.device("cpu"), torch.float32, None)
    tokenizer = load_tokenizer(model)
    probe = tokenize_pairs([PROBE], tokenizer).pairs
    tuned = load_adapter(load_base(model, placement), adapter)
    before = score_pairs(tuned, probe)[0]
    merged = tuned.merge_and_unload().to(DTYPES[precision])
    error = difference(before, score_pairs(merged, probe)[0])
    if not error <= TOLERANCE[precision]:  # nan, where a weight is beyond the precision's range
        raise UserError(f"merging {adapter} moved log-probs by {error:.2g} nats a token in {precision}: use fp32.")
    merged.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return error


def difference(one: PairScore, other: PairScore) -> float:
    return max(
        abs(one.chosen_logp_mean - other.chosen_logp_mean), abs(one.rejected_logp_mean - other.rejected_logp_mean)
    )
