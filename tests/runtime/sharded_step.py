"""Run by torchrun: compare a whole model with the same model sharded by FSDP2.

Compares a DPO forward and backward pass, scores, and the saved adapter. `dora` makes it DoRA.
"""

import random
import sys

import torch
import torch.distributed as dist
from accelerate import PartialState
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.dpo_trainer import DataCollatorForPreference

from mvp_align.modeling.fingerprint import gather_shards
from mvp_align.schema import PairScore
from mvp_align.scoring.identity import identity
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.methods import KNOWN, scoring_method
from mvp_align.scoring.passes import Method
from mvp_align.scoring.tokens import Answer, TokenizedPair
from mvp_align.training.forward import share_prompts

DORA = "dora" in sys.argv


def tiny() -> PeftModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=101,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    lora = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", use_dora=DORA
    )
    model = get_peft_model(LlamaForCausalLM(config), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    assert share_prompts(model.get_base_model())
    return model.train()


def pairs() -> dict[str, Tensor]:
    draw = random.Random(5)

    def ids(count: int) -> list[int]:
        return [draw.randrange(3, 101) for _ in range(count)]

    examples = [
        {"prompt_ids": ids(7), "chosen_ids": ids(5), "rejected_ids": ids(9)} for _ in range(3)
    ]
    batch = DataCollatorForPreference(pad_token_id=0)(examples)
    mask = batch.pop("completion_mask")
    return {**batch, "labels": batch["input_ids"].masked_fill(mask == 0, -100)}


def tokenized() -> list[TokenizedPair]:
    draw = random.Random(6)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 101) for _ in range(count))

    prompts = [ids(4 + number) for number in range(5)]
    return [
        TokenizedPair(str(n), "", *(Answer((*prompt, *ids(3 + n)), len(prompt)) for _ in range(2)))
        for n, prompt in enumerate(prompts)
    ]


def step(model: PeftModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    outputs = model(**batch, use_cache=False, fused_lm_head=True)  # TRL's call
    outputs.log_probs.sum().backward()
    return outputs.log_probs.detach(), {
        n: gather_shards(p.grad).clone() for n, p in model.named_parameters() if p.grad is not None
    }


PartialState(cpu=True)
model, batch = tiny(), pairs()
# 5 batches: one process makes a pass for nothing
scores = score_pairs(model, tokenized(), batch_size=1)
with model.disable_adapter():
    base_scores = score_pairs(model, tokenized(), batch_size=1)
weights = identity(model, "default")
log_probs, gradients = step(model, batch)
mesh = init_device_mesh("cpu", (dist.get_world_size(),))
for layer in model.get_base_model().model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
sharded, sharded_gradients = step(model, batch)
torch.testing.assert_close(sharded, log_probs, atol=1e-6, rtol=0)
tensors = 3 if DORA else 2  # A, B and DoRA's magnitudes, of q and v in two layers
assert len(gradients) == len(sharded_gradients) == tensors * 2 * 2
for name, gradient in gradients.items():
    assert gradient.abs().max() > 0
    torch.testing.assert_close(sharded_gradients[name], gradient, atol=1e-5, rtol=0)


def same(found: list[PairScore], expected: list[PairScore]) -> None:
    for now, then in zip(found, expected, strict=True):
        assert now.id == then.id
        for key in ("chosen_logp", "rejected_logp"):
            torch.testing.assert_close(getattr(now, key), getattr(then, key), atol=1e-5, rtol=1e-6)


KNOWN.clear()  # a sharded model that was never whole here is judged by a tiny copy of its config
same(score_pairs(model, tokenized(), batch_size=1), scores)
assert scoring_method(model.get_base_model()) is Method.PACKED
with model.disable_adapter():
    same(score_pairs(model, tokenized(), batch_size=1), base_scores)
assert scores != base_scores and model.training
assert identity(model, "default") == weights
again, _ = step(model, batch)  # scoring leaves a model that trains
torch.testing.assert_close(again, log_probs, atol=1e-6, rtol=0)
dist.destroy_process_group()
print("the same")
