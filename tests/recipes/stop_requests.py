"""A stop request that comes at a given moment of a run."""

from typing_extensions import override

from mvp_align.runtime.preemption import StopRequest


class AtCheck(StopRequest):
    """A stop request at the `number`-th check, which also counts checks."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.listening, self.number, self.count = True, number, 0

    @override
    def __bool__(self) -> bool:
        self.count += 1
        return self.count == self.number
