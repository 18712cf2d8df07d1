"""The formats that `data.format` can name, one line each.

`auto` takes the first of them that a file's records fit.
"""

from mvp_align.data.formats import (
    alpaca,
    conversational,
    hh_rlhf,
    labelled,
    mvpbench,
    orca,
    pairs,
    psoups,
    sharegpt,
    standard,
    swift,
    ufp4,
)
from mvp_align.data.formats.record import Format

FORMATS: dict[str, Format] = {
    "mvpbench": mvpbench.FORMAT,
    "psoups": psoups.FORMAT,
    "conversational": conversational.FORMAT,
    "sharegpt": sharegpt.FORMAT,
    "swift": swift.FORMAT,
    "hh_rlhf": hh_rlhf.FORMAT,
    "alpaca": alpaca.FORMAT,
    "orca": orca.FORMAT,
    "pku_saferlhf": labelled.PKU_SAFERLHF,
    "helpsteer": labelled.HELPSTEER,
    "shp": labelled.SHP,
    "arena": labelled.ARENA,
    "standard": standard.STANDARD,
    "implicit": standard.IMPLICIT,
    "pairs": pairs.FORMAT,
    "ufp4": ufp4.FORMAT,
}
AUTO_FORMAT = "auto"
"""The value of `data.format` that recognises one of them."""
