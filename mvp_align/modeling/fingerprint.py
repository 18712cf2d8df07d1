"""Which weights are these: hashes of a base's and of an adapter's parameters."""

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
CHECKSUM_CHUNK = 2**24
CHUNK_FACTOR = 6364136223846793005
"""Knuth's multiplier of MMIX: keeps chunks of equal content apart by their order."""


WRAPPED = ("base_model.model.", ".base_layer", ".original_module", ".token_adapter")
"""What PEFT puts into the names of a base's parameters."""


def fingerprint(model: nn.Module) -> str:
    """Hash of the base weights: names, shapes, dtypes and checksums of every parameter. Adapters do
    not count."""
    return _digest(_base_tensors(model))


def _base_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters of the base under their own names; of 4-bit ones, which hold steps alone, the
    scales as well."""
    adapters = {*getattr(model, "peft_config", ())}  # PEFT puts it on the base that it wraps, too
    for name, parameter in model.named_parameters():
        if adapters.intersection(name.split(".")):
            continue
        name = own_name(name)
        yield name, parameter
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            for key, part in state.as_dict(packed=False).items():
                if isinstance(part, Tensor | float):
                    yield f"{name}.{key}", torch.as_tensor(part)


def own_name(name: str) -> str:
    """What a base's parameter is called without PEFT."""
    for word in WRAPPED:
        name = name.replace(word, "")
    return name


def adapter_fingerprint(model: nn.Module, adapter: str) -> str:
    return _digest(
        (name, value) for name, value in model.named_parameters() if adapter in name.split(".")
    )


def _digest(named: Iterable[tuple[str, Tensor]]) -> str:
    found = hashlib.sha256()
    for name, tensor in named:
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {checksums(tensor)}".encode())
    return found.hexdigest()[:16]


def checksums(tensor: Tensor) -> tuple[int, int]:
    """The sum of the elements' bits, and of the bits times an odd number that differs from place to
    place, both modulo 2**64: they see any changed element and any swap, on the tensor's device and
    in a fraction of the time of hashing."""
    bits = whole(tensor).detach().reshape(-1).view(BITS[tensor.element_size()])
    plain = weighted = 0
    for chunk in bits.split(CHECKSUM_CHUNK):
        values = chunk.long()
        plain += int(values.sum())
        places = 2 * torch.arange(len(values), device=bits.device) + 1
        weighted = weighted * CHUNK_FACTOR + int((values * places).sum())
    return plain % 2**64, weighted % 2**64


def whole(tensor: Tensor) -> Tensor:
    """`tensor`, put together from the parts that FSDP has given to several processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
