"""Whose texts may leave the machine: what lies under a licence that lets others pass it on."""

import re

from mvp_align.config import Config
from mvp_align.data.sets import SETS, chosen_sets

OWN = "own"
PASSED_ON = re.compile(
    r"CC0-1\.0|CC-BY(-NC)?(-SA|-ND)?-\d\.\d|ODC-By-1\.0|ODbL-1\.0|PDDL-1\.0|MIT|Apache-2\.0",
    re.IGNORECASE,
)
"""SPDX ids of licences under which a whole text may be passed on as it is."""
STATED = f"a licence such as CC-BY-4.0 or CC0-1.0, or {OWN} where the texts are yours to pass on"


def lets_pass_on(licence: str | None) -> bool:
    """Whether a licence, by its SPDX id, lets texts be passed on. One that is not known does
    not."""
    return licence is not None and (licence == OWN or bool(PASSED_ON.fullmatch(licence)))


def text_problems(config: Config) -> list[str]:
    """Return why texts must not leave the machine though `tracking.texts` asks for it."""
    if not config.tracking.texts:
        return []
    data, problems = config.data, []
    own = [
        f"data.{name}={source}"
        for name, source in (("train", data.train), ("val", data.val), ("test", data.test))
        if source is not None and not source.startswith("sample:")
    ]
    if own and not lets_pass_on(data.license):
        known = (
            "no licence of theirs is stated"
            if data.license is None
            else f"data.license={data.license} is not known to let others pass texts on"
        )
        problems.append(
            f"tracking.texts=true would hand over texts of {', '.join(own)}, and {known}: set"
            f" data.license to {STATED}, or leave tracking.texts out."
        )
    problems += [
        f"tracking.texts=true would hand over texts of {name}, which has no licence that lets"
        f" others pass them on: leave {name} out of evals.sets, or leave tracking.texts out."
        for name in chosen_sets(config)
        if name in SETS and SETS[name].out_of_domain and not lets_pass_on(SETS[name].license)
    ]
    return problems
