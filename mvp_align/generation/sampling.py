"""Random numbers of each pair's own, and how an engine draws tokens with them."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)
from transformers.generation.continuous_batching.requests import (
    FutureRequestState,
    RequestState,
)
from typing_extensions import override


def uniforms(seed: int, id: str, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return a pair's own random numbers in [0, 1), one per token."""
    name = int.from_bytes(hashlib.sha256(id.encode()).digest()[:8])
    return np.random.default_rng([seed, name]).random(count)


def stacked_uniforms(seed: int, ids: Sequence[str], count: int) -> Tensor:
    """Return the random numbers of several pairs: float64 [pairs, count]."""
    return torch.from_numpy(np.stack([uniforms(seed, id, count) for id in ids]))


def drawn_only(scores: Tensor, numbers: Tensor, temperature: float) -> Tensor:
    """Draw one token per row by inverting the CDF of softmax(scores / temperature).

    `scores` [rows, vocabulary], `numbers` float64 [rows] in [0, 1). Returns scores that are 0 for
    the drawn token and -inf for all others, so that the most probable token is the drawn one.
    transformers' own sampling draws all rows of a batch from one generator, so an answer would
    depend on its batch.
    """
    edges = (scores.double() / temperature).softmax(dim=-1).cumsum(dim=-1)
    place = numbers[:, None] * edges[:, -1:]
    drawn = torch.searchsorted(edges, place, right=True).clamp_(max=scores.shape[1] - 1)
    return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)


class Draw(LogitsProcessor):
    """`drawn_only` in plain `generate`.

    `uniforms` [rows, new tokens] is float64; `width` is the length of the prompts.
    """

    def __init__(self, uniforms: Tensor, temperature: float, width: int) -> None:
        self.uniforms = uniforms
        self.temperature = temperature
        self.width = width

    @override
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        numbers = self.uniforms[:, input_ids.shape[1] - self.width]
        return drawn_only(scores, numbers, self.temperature)


class ContinuousDraw(ContinuousBatchingLogitsProcessor):
    """`drawn_only` in continuous batching, where each row is another request at another token.

    `uniforms` [requests, new tokens] is float64, on the model's device; `lengths` are the prompts'.
    A request's id is its row. transformers hands one int32 per row to the device, so that is the
    place of the row's next number in the flattened `uniforms`.
    """

    def __init__(self, uniforms: Tensor, temperature: float, lengths: Sequence[int]) -> None:
        self.supported_kwargs, self.ignored_kwargs = {}, ()
        self.flat = uniforms.flatten()
        self.count = uniforms.shape[1]
        self.temperature = temperature
        self.lengths = {str(number): length for number, length in enumerate(lengths)}

    @override
    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    @override
    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> Tensor:
        places = [self._place(request.state) for request in requests_with_new_token]
        return torch.tensor(places, dtype=torch.int32)

    def _place(self, state: RequestState) -> int:
        """Return the place of the next number; 0 for requests that warm up.

        The position counts the tokens of this pass already, and, unlike the number of generated
        tokens, is right when the next pass is prepared before this one has ended.
        """
        length = self.lengths.get(state.request_id)
        if length is None:
            return 0
        step = min(state.position_offset - length, self.count - 1)
        return int(state.request_id) * self.count + step

    @override
    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        numbers = self.flat[tensor_arg[: scores.shape[0]].long()]
        return drawn_only(scores, numbers, self.temperature)
