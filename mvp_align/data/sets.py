"""The sets that a model is evaluated on: one table of their names, what they are, and what
`evals.sets=[auto]` means."""

from dataclasses import dataclass

from mvp_align.config import Config

IN_DOMAIN = "in_domain"
UFP4 = "ufp4"
UFP4_SAMPLE = "ufp4_sample"
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class KnownSet:
    title: str
    out_of_domain: bool = False
    """Its pairs have nothing to do with what the run trains on, and come in four user types."""
    synthetic: bool = False
    """Made up for this project: no published figure may stand beside it."""


SETS = {
    IN_DOMAIN: KnownSet("In domain"),
    UFP4: KnownSet("Out of domain: UF-P-4", out_of_domain=True),
    UFP4_SAMPLE: KnownSet(
        "Out of domain: a synthetic sample in UF-P-4’s schema", out_of_domain=True, synthetic=True
    ),
}
"""By the name that rows, files and logs give them."""


def chosen_sets(config: Config) -> list[str]:
    """`evals.sets`, each once, `auto` replaced: the run's own test pairs, and UF-P-4 where its
    files are given; where all data is the bundled sample, the bundled stand-in for UF-P-4 too. Own
    data never pays for the stand-in unasked."""
    auto = [IN_DOMAIN]
    sources = [
        source
        for source in (config.data.train, config.data.val, config.data.test)
        if source is not None
    ]
    if config.evals.ufp4 is not None:
        auto.append(UFP4)
    elif sources and all(source.startswith("sample:") for source in sources):
        auto.append(UFP4_SAMPLE)
    given = [name for entry in config.evals.sets for name in (auto if entry == AUTO else [entry])]
    return list(dict.fromkeys(given))


def set_problems(config: Config) -> list[str]:
    """What is wrong with the choice of sets, `auto` replaced, each with what to do."""
    sets, folder = config.evals.sets, config.evals.ufp4
    problems = [
        f"evals.sets: '{name}' is not one of {', '.join([*SETS, AUTO])}."
        for name in sets
        if name not in SETS
    ]
    if UFP4 in sets and folder is None:
        problems.append(NO_FILES)
    if UFP4 not in sets and folder is not None:
        problems.append(
            f"evals.ufp4={folder} is set, and evals.sets has no ufp4: add it, or leave evals.ufp4"
            " out."
        )
    return problems


NO_FILES = (
    "evals.sets has ufp4, whose files are not given: evals.ufp4=FOLDER names the folder of UF-P-4's"
    " four files. The bundled synthetic stand-in is ufp4_sample:"
    " evals.sets=[in_domain,ufp4_sample]."
)
