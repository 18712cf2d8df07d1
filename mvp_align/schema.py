"""Data types shared by all rooms.

Records become `PreferencePair`s, and everything later reads those.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

DIMENSIONS = (
    "creativity",
    "fluency",
    "factuality",
    "diversity",
    "safety",
    "personalisation",
    "helpfulness",
)
"""The seven value dimensions of MVPBench, in the benchmark's spelling."""

Level = Literal["High", "Low"]

HIGH_FROM = 80
LOW_UP_TO = 60


def level(score: int) -> Level | None:
    """Return High from 80, Low up to 60, None between (MVPBench, arXiv 2509.08022).

    `score` is 0-100.
    """
    if score >= HIGH_FROM:
        return "High"
    if score <= LOW_UP_TO:
        return "Low"
    return None


@dataclass(frozen=True, slots=True)
class Profile:
    """The user who asks, in PRISM's vocabulary.

    Its fields are those of the benchmark's training prompt.
    """

    age: str
    gender: str
    employment_status: str
    education: str
    marital_status: str
    birth_country: str
    english_proficiency: str = ""


@dataclass(frozen=True, slots=True)
class StatedValues:
    """A user's stated scores, integers 0-100, one per dimension."""

    creativity: int
    fluency: int
    factuality: int
    diversity: int
    safety: int
    personalisation: int
    helpfulness: int

    def level(self, dimension: str) -> Level | None:
        return level(int(getattr(self, dimension)))

    def preference(self) -> str:
        """Return the benchmark's preference text, like `High fluency, Low creativity.`.

        Empty if no score is High or Low.
        """
        high = [f"High {d}" for d in DIMENSIONS if self.level(d) == "High"]
        low = [f"Low {d}" for d in DIMENSIONS if self.level(d) == "Low"]
        return ", ".join(high + low) + "." if high or low else ""


@dataclass(frozen=True, slots=True)
class EarlierChoice:
    """A question, the answer that a person preferred, and the one that they did not."""

    question: str
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


ShownAs = Literal["text", "verbatim", "dialogue", "chat"]
"""How a pair's texts become a prompt.

text: as the run's template says. verbatim: the same, and spaces around the question stay.
dialogue: with `Human:` and `Assistant:` before each turn, or by the chat template where the prompt
asks for one. chat: always by the chat template.
"""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A question, the answer that fits the asking user's values, and one that contradicts them.

    `user_id` is the unit of splits and of clustered intervals. In records that name no user, it is
    the prompt (`prompt-<hash>`), because rows that repeat a prompt are no more independent than
    rows of one user. `profile_text` is a free-text profile (UF-P-4, own pairs), `profile` a
    structured one (MVPBench). `groups` holds what results are broken down by, such as
    `{"dimension": "safety", "level": "High"}`. `choices` are the same person's about other
    questions, in the order in which a prompt shows them (`mvp_align.data.histories`). `before` is
    what was said before the question: a system prompt, earlier turns.
    """

    id: str
    user_id: str
    question: str
    chosen: str
    rejected: str
    profile: Profile | None = None
    profile_text: str = ""
    stated_values: StatedValues | None = None
    preference: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    choices: tuple[EarlierChoice, ...] = ()
    before: tuple[ChatTurn, ...] = ()
    shown_as: ShownAs = "text"

    @property
    def asked(self) -> str:
        """The question, below what was said before it, for readers and to tell questions apart."""
        if not self.before:
            return self.question
        turns = (*self.before, ChatTurn("user", self.question))
        return "\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in turns)


def is_finite(value: object) -> bool:
    """Return whether `value` is a finite number, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class PairScore:
    """A model's scores of one pair: summed token log-probs in nats, and token counts.

    Raises ValueError if a sum is not finite (`margin > d` would count such a pair as wrong), or an
    answer has no token.
    """

    id: str
    user_id: str
    chosen_logp: float
    rejected_logp: float
    chosen_tokens: int
    rejected_tokens: int

    def __post_init__(self) -> None:
        for name in ("chosen_logp", "rejected_logp"):
            if not is_finite(getattr(self, name)):
                raise ValueError(
                    f"pair {self.id}: {name} is {getattr(self, name)!r}, no finite number"
                )
        for name in ("chosen_tokens", "rejected_tokens"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"pair {self.id}: {name} is {count!r}, and must be 1 or above")

    @property
    def chosen_logp_mean(self) -> float:
        return self.chosen_logp / self.chosen_tokens

    @property
    def rejected_logp_mean(self) -> float:
        return self.rejected_logp / self.rejected_tokens

    @property
    def margin(self) -> float:
        """Difference of the mean log-probs per token, in nats (MVPBench's OPA margin)."""
        return self.chosen_logp_mean - self.rejected_logp_mean


@dataclass(frozen=True, slots=True)
class PromptedPair:
    """A pair as text: the rendered prompt, and two answers that follow without separator.

    `turns` are what a chat template wrote the prompt from, and empty for plain text. With them, the
    template wrote the answers too, each with the end of its turn, and the texts hold all special
    tokens there are.
    """

    id: str
    user_id: str
    prompt: str
    chosen: str
    rejected: str
    turns: tuple[ChatTurn, ...] = ()
