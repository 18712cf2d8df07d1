"""The sets that a model is evaluated on: one table of what they are and where their pairs lie, and
what `evals.sets=[auto]` means."""

from dataclasses import dataclass

from mvp_align.config import Config
from mvp_align.data.formats import FORMATS
from mvp_align.data.public_sources import public_source

IN_DOMAIN = "in_domain"
UFP4 = "ufp4"
UFP4_SAMPLE = "ufp4_sample"
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class KnownSet:
    """Without `format` its pairs are the run's own test pairs."""

    title: str
    format: str = ""
    """How its records are read: a name of `data.formats`, which says as well whether they name
    people."""
    source: str = ""
    """Where its pairs lie, as `data.test` takes it: a file, a folder, hf:<id>[:<split>] or
    sample:<name>. Empty where a setting `evals.<name>` says so."""
    files: str = ""
    """What that setting's folder holds, in words."""
    public: str = ""
    """What `mvp-align data fetch` calls these files, where it has them."""
    user_types: tuple[str, ...] = ()
    """Where it has to consist of a file for each user type: their names."""
    synthetic: bool = False
    """Made up for this project: no published figure may stand beside it."""
    license: str | None = None
    """What its texts are under, by SPDX id; None where nothing is stated."""
    stands_in_for: str = ""
    """The set whose schema it has, and whose place it takes where all data is the bundled
    sample."""

    @property
    def out_of_domain(self) -> bool:
        """Its pairs have nothing to do with what the run trains on."""
        return bool(self.format)


SETS = {
    IN_DOMAIN: KnownSet("In domain"),
    UFP4: KnownSet(
        "Out of domain: UF-P-4",
        format="ufp4",
        files="UF-P-4's four files",
        public="ufp4",
        user_types=FORMATS["ufp4"].user_types,
    ),
    UFP4_SAMPLE: KnownSet(
        "Out of domain: a synthetic sample in UF-P-4’s schema",
        format="ufp4",
        source="sample:ufp4",
        synthetic=True,
        license="CC-BY-4.0",
        stands_in_for=UFP4,
    ),
}
"""By the name that rows, files and logs give them."""


def set_source(name: str, config: Config) -> str | None:
    """Where the pairs of a set out of domain lie; None where no setting says so."""
    given: str | None = SETS[name].source or getattr(config.evals, name)
    return given


def names_people(name: str, data_format: str) -> bool:
    """Whether the records of a set say whose they are, as far as their format tells; `data_format`
    is that of the run's own pairs."""
    known = FORMATS.get(SETS[name].format or data_format)
    return known is None or known.names_people


def chosen_sets(config: Config) -> list[str]:
    """`evals.sets`, each once, `auto` replaced: the run's own test pairs, and each set whose files
    `evals.<name>` gives; where all data is the bundled sample, the bundled stand-in for one that is
    not given. Own data never pays for a stand-in unasked."""
    sources = [
        source
        for source in (config.data.train, config.data.val, config.data.test)
        if source is not None
    ]
    on_sample = bool(sources) and all(source.startswith("sample:") for source in sources)
    auto = [IN_DOMAIN]
    for name, known in SETS.items():
        if known.stands_in_for:
            wanted = on_sample and known.stands_in_for not in auto
        else:
            wanted = known.out_of_domain and not known.source and bool(set_source(name, config))
        auto += [name] * wanted
    given = [name for entry in config.evals.sets for name in (auto if entry == AUTO else [entry])]
    return list(dict.fromkeys(given))


def set_problems(config: Config) -> list[str]:
    """What is wrong with the choice of sets, `auto` replaced, each with what to do."""
    sets = config.evals.sets
    problems = [
        f"evals.sets: '{name}' is not one of {', '.join([*SETS, AUTO])}."
        for name in sets
        if name not in SETS
    ]
    for name, known in SETS.items():
        if not known.out_of_domain or known.source:
            continue
        source = set_source(name, config)
        if name in sets and source is None:
            problems.append(no_files(name))
        if name not in sets and source is not None:
            problems.append(
                f"evals.{name}={source} is set, and evals.sets has no {name}: add it, or leave"
                f" evals.{name} out."
            )
    return problems


def no_files(name: str) -> str:
    """That a set was asked for whose files nobody gave, and what helps."""
    text = (
        f"evals.sets has {name}, whose files are not given: evals.{name}=FOLDER names the folder of"
        f" {SETS[name].files}."
    )
    if public := SETS[name].public:
        text += f" `mvp-align data fetch {public}` fetches them: {public_source(public).use}."
    for stand_in, other in SETS.items():
        if other.stands_in_for == name:
            text += (
                f" The bundled synthetic stand-in is {stand_in}: evals.sets=[in_domain,{stand_in}]."
            )
    return text
