"""Hashes that identify the weights of a base model and of an adapter."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
CHECKSUM_CHUNK = 2**24
CHUNK_FACTOR = 6364136223846793005
"""Knuth's MMIX multiplier. It makes the checksum depend on the order of chunks."""


WRAPPED = ("base_model.model.", ".base_layer", ".original_module", ".token_adapter")
"""What PEFT inserts into the names of base parameters."""


def fingerprint(model: nn.Module) -> str:
    """Return a hash of the base weights, without adapters.

    It covers the name, shape, dtype and checksum of every parameter.
    """
    return _digest(_base_tensors(model))


def _base_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the base's parameters under their own names.

    A 4-bit parameter holds only quantisation steps, so its scales follow.
    """
    adapters = {*getattr(model, "peft_config", ())}  # PEFT also sets it on the base that it wraps
    for name, parameter in model.named_parameters():
        if adapters.intersection(name.split(".")):
            continue
        name = unwrapped_name(name)
        yield name, parameter
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            for key, part in state.as_dict(packed=False).items():
                if isinstance(part, Tensor | float):
                    yield f"{name}.{key}", torch.as_tensor(part)


def unwrapped_name(name: str) -> str:
    """Return the name of a base parameter without PEFT's insertions."""
    for word in WRAPPED:
        name = name.replace(word, "")
    return name


def adapter_fingerprint(model: nn.Module, adapter: str) -> str:
    """Return a hash of an adapter's tensors.

    It covers rsLoRA's scaling and alphas by layer, which are in no tensor.
    """
    config: Any = getattr(model, "peft_config", {}).get(adapter)
    scaled = config is not None and (config.use_rslora or config.alpha_pattern)
    return _digest(
        ((name, value) for name, value in model.named_parameters() if adapter in name.split(".")),
        f"{config.lora_alpha} {config.use_rslora} {config.alpha_pattern}" if scaled else "",
    )


def _digest(named: Iterable[tuple[str, Tensor]], beside: str = "") -> str:
    found = hashlib.sha256(beside.encode())
    for name, tensor in named:
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {checksums(tensor)}".encode())
    return found.hexdigest()[:16]


def checksums(tensor: Tensor) -> tuple[int, int]:
    """Return the sum of the elements' bits, and a weighted sum, both modulo 2**64.

    The weights are odd and differ between positions, so the sums detect any changed element and any
    swap. They run on the tensor's device, in a fraction of the time of a hash.
    """
    bits = gather_shards(tensor).detach().reshape(-1).view(BITS[tensor.element_size()])
    plain = weighted = 0
    for chunk in bits.split(CHECKSUM_CHUNK):
        values = chunk.long()
        plain += int(values.sum())
        places = 2 * torch.arange(len(values), device=bits.device) + 1
        weighted = weighted * CHUNK_FACTOR + int((values * places).sum())
    return plain % 2**64, weighted % 2**64


def gather_shards(tensor: Tensor) -> Tensor:
    """Return `tensor`, gathered from all processes if FSDP shards it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
