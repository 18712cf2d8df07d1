"""How judges are asked: the rules, blind or not, and in one or both orders of references."""

from collections.abc import Sequence
from dataclasses import dataclass

from mvp_align.errors import UserError
from mvp_align.judging.judges import SEMANTIC
from mvp_align.judging.labels import Rules


@dataclass(frozen=True, slots=True)
class JudgingProtocol:
    """How judges are asked, and by which rules their verdicts become labels."""

    rules: Rules
    blind: bool = False
    swap: bool = False

    @property
    def options(self) -> str:
        return "-blind" * self.blind + "-swap" * self.swap

    @property
    def metric(self) -> str:
        """Metric name. Other options measure something else, so they have their own names."""
        return f"paa/{self.rules.name}{self.options}"

    def file_name(self, judge: str) -> str:
        """Return a judge's part of file names.

        Judgements depend on the question, but not on the rules.
        """
        return judge + ("-yes_no" if self.rules.ask == "yes_no" else "") + self.options


def check_protocol(protocol: JudgingProtocol, judges: Sequence[str]) -> None:
    """Raise UserError if these judges cannot follow this protocol."""
    if protocol.rules.ask != "scores" and (protocol.blind or protocol.swap):
        raise UserError(
            f"--blind and --swap are about two references; {protocol.rules.name} shows a judge one,"
            " or none."
        )
    if SEMANTIC in judges and len(judges) > 1:
        raise UserError(f"--judge {SEMANTIC} is no model that scores, so it judges alone.")
    if judges and (SEMANTIC in judges) != (protocol.rules.ask == "nearness"):
        raise UserError(
            f"--judge {SEMANTIC} and rules that go by nearness (--preset semantic) belong together."
        )
