"""`train.micro_batch_size=auto`: the largest number of pairs a pass that fits, found by trying the longest pairs once."""

from dataclasses import replace

import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from peft import PeftModel

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.scoring.attention import share_attention
from mvp_align.scoring.logps import answer_states, causal_model
from mvp_align.scoring.rows import make_rows
from mvp_align.scoring.tokens import TokenizedPair
from mvp_align.training.forward import token_outputs
from mvp_align.training.preflight import Plan


def fit_micro_batch(plan: Plan, model: PeftModel, config: Config) -> Plan:
    """The plan with its micro-batch decided, where the config leaves that to us; else the plan as it is.

    Sizes are tried downwards among those that divide the effective batch, which therefore stays what it was. All
    processes take the smallest size found by any. Raises UserError where one pair does not fit.
    """
    if config.train.micro_batch_size != "auto" or plan.batches is None:
        return plan
    batches = plan.batches
    model.train()
    if config.hardware.gradient_checkpointing:  # as the trainer will, so that what is tried is what will run
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    share = batches.effective // batches.processes
    longest = sorted(plan.train_tokens, key=lambda pair: pair.longest, reverse=True)
    fitting = next((n for n in range(share, 0, -1) if share % n == 0 and fits(model, longest[:n])), 0)
    fitting = min(gather_object([fitting])) if batches.processes > 1 else fitting
    if fitting == 0:
        raise UserError(
            f"The longest pair ({longest[0].longest} tokens with its longer answer) does not fit: try quantization=4bit, "
            "hardware.gradient_checkpointing=true, or a lower data.max_tokens."
        )
    found = replace(batches, micro=fitting, accumulation=share // fitting)
    print(f"train.micro_batch_size=auto: {found.arithmetic}")
    return replace(plan, batches=found)


def fits(model: PeftModel, pairs: list[TokenizedPair]) -> bool:
    """Whether a forward and backward pass over these pairs runs out of no memory. Leaves no gradient behind."""
    causal = causal_model(model)
    answers = [answer for pair in pairs for answer in (pair.chosen, pair.rejected)]
    try:
        with torch.autocast(causal.device.type, dtype=causal.dtype, enabled=causal.dtype != torch.float32):
            hidden, targets, _ = answer_states(causal, make_rows(answers, share_attention(causal)))
            log_probs, *_ = token_outputs(causal.get_output_embeddings(), hidden, targets)
        log_probs.sum().backward()
    except Exception as error:
        if not should_reduce_batch_size(error):
            raise
        return False
    finally:
        model.zero_grad(set_to_none=True)
        clear_device_cache(garbage_collection=True)
    return True
