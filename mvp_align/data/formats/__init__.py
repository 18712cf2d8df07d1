"""The formats that `data.format` can name, one line each."""

from mvp_align.data.formats import mvpbench, pairs, psoups, ufp4
from mvp_align.data.formats.record import Format

FORMATS: dict[str, Format] = {
    "mvpbench": mvpbench.FORMAT,
    "ufp4": ufp4.FORMAT,
    "pairs": pairs.FORMAT,
    "psoups": psoups.FORMAT,
}
