"""State the result of a set in words, with no more certainty than its interval has."""

from mvp_align.metrics.rows import Row
from mvp_align.reporting.leading import spoken
from mvp_align.reporting.results import Line, number, shown

NO_PAIRS = (
    "Prose that is about nobody’s values: where its perplexity rises, training has cost the model"
    " some of its language."
)
ONE = {"people": "person", "prompts": "prompt"}


def sentence(acc: Line, unit: str, *, unseen: bool) -> str:
    """Describe users, pairs and the change of acc@0 with its interval, or that nothing is shown.

    Adds what a model that ignores who is asking could reach. `acc` may be of another metric that
    leads (`leading.leading_metric`).
    """
    row, name = acc.tuned or acc.base, spoken(acc.metric)
    if row is None:
        return NO_PAIRS if unit == "passages" else f"There is no {name} for this set."
    counted = ONE.get(unit, unit) if row.users == 1 else unit
    whose = f"{row.users} {'unseen ' if unseen else ''}{counted}"
    where = f"On {whose}’s {row.n} pairs" if unit == "people" else f"On {row.n} pairs over {whose}"
    if not (acc.base and acc.tuned):
        text = f"{where}, {name} is {shown(row)} ({row.stage} model)"
    elif nothing := no_change_reason(acc.lift, name):
        text = (
            f"{where}, {nothing}: {number(acc.base.value)} % before and {number(acc.tuned.value)} %"
            " after training"
        )
        text += f", {shown(acc.lift)} points" if acc.lift else ""
    else:
        text = (
            f"{where}, {name} went from {number(acc.base.value)} % to {number(acc.tuned.value)} %"
        )
        text += f", {shown(acc.lift)} points"
    if acc.ceiling is None:
        return f"{text}."
    if acc.ceiling.value >= 1:
        return (
            f"{text}; a model that ignores who is asking can reach 100 % here: no proof of heeding"
            " anybody."
        )
    return f"{text}; a model that ignores who is asking cannot pass {number(acc.ceiling.value)} %."


def no_change_reason(lift: Row | None, name: str = "acc@0") -> str:
    """Say why a lift shows nothing about other users; empty if its interval excludes 0."""
    if lift is None or lift.low is None or lift.high is None:
        return f"no change of {name} is shown, because there is no interval" + (
            " for one person" if lift is not None and lift.users == 1 else ""
        )
    if lift.low <= -1 and lift.high >= 1:
        return f"no change of {name} is shown, because so few people leave every change possible"
    if lift.low <= 0 <= lift.high:
        return f"no change of {name} is shown"
    return ""


def against_ceiling(acc: Line) -> str:
    """Compare acc@0 with the ceiling of a model that ignores who is asking; empty without one."""
    if acc.ceiling is None:
        return ""
    text = f"a model that ignores who is asking cannot pass {number(acc.ceiling.value)} % acc@0"
    row = acc.tuned or acc.base
    if row is None or acc.ceiling.value >= 1:
        return text
    above = row.low is not None and row.low > acc.ceiling.value
    return (
        f"{text}; {row.stage} has {shown(row)},"
        f" {'which is above' if above else 'not shown to be above'}"
    )
