"""Merge an adapter into its base: one plain model that any server loads."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from mvp_align.config import Model
from mvp_align.errors import UserError
from mvp_align.modeling.adapter_base import TWIN, hub_id
from mvp_align.modeling.adapter_tokenizer import run_tokenizer
from mvp_align.modeling.adapters import load_adapter
from mvp_align.modeling.base import load_base, run_quantization
from mvp_align.modeling.hardware import DTYPES, Placement
from mvp_align.runtime.atomic import full_disk_explained, move_folder
from mvp_align.schema import PairScore, PromptedPair
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.tokens import tokenize_pairs

TOLERANCE = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.02}
"""Largest difference between the merged model and base with adapter, in nats per token.

Keys are the precisions that the merged model can be stored in.
"""

PROBE = PromptedPair(
    id="probe",
    user_id="probe",
    prompt="Question: What should I look at before I sign a rental contract?",
    chosen="Read the whole contract, note the length of notice, and ask who pays for repairs.",
    rejected="Most people sign it and see what happens; these papers are all alike.",
)


def merge_adapter(
    model: Model,
    adapter: Path,
    target: Path,
    precision: str,
    *,
    base: str | None = None,
    any_base: bool = False,
) -> float:
    """Write base and adapter to `target` as one safetensors model.

    Merges in fp32 and stores in `precision`. The base is always unquantised, because merging into 4
    bits would round the adapter away (huggingface/peft#2321). `base`, a model id or folder,
    replaces a model that is stored in 4 bits.

    Returns the largest difference in mean log-prob (nats per token) on a probe pair, between base
    with adapter and the written model. Raises UserError if `target` exists, the base is quantised,
    or the difference exceeds `TOLERANCE`.
    """
    if target.exists():
        raise UserError(f"{target} exists already: choose another folder, or delete it.")
    if base:
        model = replace(model, name=base, id=base, revision=None)
    _refuse_stored_quantised(model)
    tokenizer = run_tokenizer(model, adapter)
    probe = tokenize_pairs([PROBE], tokenizer).pairs
    tuned = load_adapter(load_base(model, _placed(torch.float32)), adapter, any_base=any_base)
    before = score_pairs(tuned, probe)[0]
    _untie(tuned.get_base_model())
    aside = target.with_name(f".{target.name}-writing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        merged = _folded(tuned, adapter)
        nn.Module.to(merged, DTYPES[precision])
        with full_disk_explained(target):
            merged.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
        del tuned, merged  # free memory before loading the written model
        written = load_base(Model(name=str(target), id=str(aside)), _placed(DTYPES[precision]))
        remedy = (
            "use fp32" if precision != "fp32" else "serve base and adapter side by side instead"
        )
        try:
            error = difference(before, score_pairs(written, probe)[0])
        except UserError as unscored:  # a weight beyond the precision's range
            raise UserError(
                f"{adapter}, merged and stored in {precision}, cannot be scored: {remedy}. Nothing"
                f" was written.\n{unscored}"
            ) from unscored
        if error > TOLERANCE[precision]:
            raise UserError(
                f"merging {adapter} moved log-probs by {error:.2g} nats a token in {precision}:"
                f" {remedy}. Nothing was written."
            )
        move_folder(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return error


def _placed(dtype: torch.dtype) -> Placement:
    return Placement(torch.device("cpu"), dtype, None)


def _refuse_stored_quantised(model: Model) -> None:
    if run_quantization(model, "none") == "none":
        return
    known = TWIN.sub("", hub_id(model.id))
    name = known if known != model.id else "ID"
    raise UserError(
        f"{model.id} is stored in 4 bits, into which an adapter cannot be merged: name the"
        f" unquantised model that it was made from, `mvp-align merge RUN FOLDER --base {name}`."
    )


def _untie(base: nn.Module) -> None:
    """Give the head its own weights if the adapter changes it or the embeddings it is tied to.

    Otherwise the merged change would apply to both.
    """
    assert isinstance(base, PreTrainedModel)
    layers = base.get_input_embeddings(), base.get_output_embeddings()
    if not base.config.get_text_config().tie_word_embeddings:
        return
    if any(isinstance(layer, BaseTunerLayer | ModulesToSaveWrapper) for layer in layers):
        head = next(module for module in layers[1].modules() if isinstance(module, nn.Linear))
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = base.config.get_text_config().tie_word_embeddings = False
        base.all_tied_weights_keys = {}


def _folded(tuned: PeftModel, adapter: Path) -> PreTrainedModel:
    try:
        merged = tuned.merge_and_unload()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        text = " ".join(str(error).split())[:300].rstrip(".")
        raise UserError(
            f"{adapter} cannot be merged ({text}): serve the base and the adapter side by side"
            " instead."
        ) from error
    assert isinstance(merged, PreTrainedModel)
    return merged


def difference(one: PairScore, other: PairScore) -> float:
    return max(
        abs(one.chosen_logp_mean - other.chosen_logp_mean),
        abs(one.rejected_logp_mean - other.rejected_logp_mean),
    )
