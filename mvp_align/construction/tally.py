"""Counts of what is left out, by reason."""

from collections import Counter, defaultdict
from collections.abc import Iterator

EXAMPLES = 5
"""Ids that are named of each reason."""


class Tally:
    """What was left out of one kind of thing: how many for each reason, and the first few."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, example: str) -> None:
        self.counts[reason] += 1
        if len(self.examples[reason]) < EXAMPLES:
            self.examples[reason].append(example)

    @property
    def total(self) -> int:
        return self.counts.total()

    def rows(self) -> list[dict[str, object]]:
        """Return the reasons, the most frequent first, as objects for a JSON file."""
        return [
            {"reason": reason, "count": count, "first": self.examples[reason]}
            for reason, count in sorted(self.counts.items(), key=lambda one: (-one[1], one[0]))
        ]

    def lines(self) -> Iterator[str]:
        """Yield a line for each reason, as printed."""
        for reason, count in sorted(self.counts.items(), key=lambda one: (-one[1], one[0])):
            yield f"  {count:,} left out: {reason}"
