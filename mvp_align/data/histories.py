"""Earlier choices of the same person: what a prompt shows in place of a questionnaire.

Each is a question, the answer that the person preferred and the one that they did not, as in AlignX
(arXiv 2503.15463) and FSPO (arXiv 2502.19312). They come from the record, where it brings some, and
otherwise from the person's other pairs. They are never about the pair's own question, and no pair
that is scored is one of them:

- Training pairs show choices from the same person's other training pairs, drawn for each pair.
- Of validation and test people some pairs are support: shown to their other pairs, and not scored.
- Pairs of validation and test are support too if a record's own choices ask their question of the
  same person, or of anybody where records name no person.

All of it is drawn by the run's seed. The first K choices are the same for every K.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from unicodedata import normalize

from mvp_align.config import Config
from mvp_align.data.formats.record import names_person
from mvp_align.data.subsets import drawn_order
from mvp_align.errors import UserError
from mvp_align.schema import EarlierChoice, PreferencePair

SCORED = ("val", "test")
OWN_QUESTION = "the record's earlier choices ask its own question"

Pairs = list[PreferencePair]


def normalised(text: str) -> str:
    """Return `text` without differences in case, spaces and encoding."""
    return " ".join(normalize("NFKC", text).casefold().split())


def choices_needed(config: Config) -> int:
    """Return the most earlier choices that a prompt of the run shows."""
    return max(config.prompt.choices, config.generation.prompt.choices, *config.evals.choices, 0)


def history_problems(config: Config) -> list[str]:
    """List what is wrong with the settings of earlier choices, each with what to do."""
    counts, support, needed = config.evals.choices, config.data.support, choices_needed(config)
    problems = [f"evals.choices: {count} must be 0 or above." for count in counts if count < 0]
    if counts and max(counts) == 0:
        problems.append("evals.choices shows none: add a count above 0, as in [0,1,2,4].")
    if support is not None and support < 0:
        problems.append(f"data.support={support}: must be 0 or above.")
    if support is not None and 0 <= support < needed:
        problems.append(
            f"data.support={support} leaves too few to show: prompt.choices or evals.choices wants"
            f" {needed}. Raise it, or leave it out."
        )
    if config.data.counterfactual != "none" and config.prompt.choices > 0:
        problems.append(
            f"data.counterfactual={config.data.counterfactual} makes up pairs of people whose"
            " earlier choices nobody knows: leave it out, or set prompt.choices=0."
        )
    return problems


def with_choices(pairs: Mapping[str, Pairs], config: Config) -> tuple[dict[str, Pairs], list[str]]:
    """Give pairs their earlier choices, up to `choices_needed`, and set support pairs aside.

    `pairs`: the run's pairs by split. Returns them without support, and notes on what was set
    aside, left out, and on pairs that have fewer choices than a prompt shows. Pairs stay as they
    are without `data.support` and prompts that show choices.

    Raises UserError if `data.support` sets nothing aside, or no test pair is left.
    """
    needed = choices_needed(config)
    held = needed if config.data.support is None else config.data.support
    if not held:
        return dict(pairs), []
    kept, notes = _without_own_questions(pairs)
    kept, support = _with_support(kept, held, config.seed)
    for name, aside in support.items():
        if kept[name] or not aside:
            continue
        raise UserError(
            f"{name}: every pair would be shown as an earlier choice, and none scored. Give more"
            " pairs a person, or fewer choices: prompt.choices, evals.choices, data.support."
        )
    if config.data.support and not any(support.values()):
        raise UserError(
            f"data.support={held} would change nothing: no validation or test person has a second"
            " pair that could be an earlier choice. Leave it out."
        )
    notes += [
        f"{name}: {len(aside)} pairs of {_people(aside)} are support: shown as earlier choices,"
        f" and not scored (up to {held} a person, seed {config.seed})."
        for name, aside in support.items()
        if aside
    ]
    given: dict[str, Pairs] = {}
    for name, found in kept.items():
        if name in SCORED:
            given[name] = _from_support(found, support[name], needed, config.seed)
        else:
            given[name] = _from_others(found, needed, config.seed)
    return given, notes + count_lines(given, needed)


def count_lines(pairs: Mapping[str, Sequence[PreferencePair]], needed: int) -> list[str]:
    """Describe, set by set, how many pairs have fewer than `needed` earlier choices."""
    lines = []
    for name, found in pairs.items():
        counts = Counter(min(len(pair.choices), needed) for pair in found)
        fewer = [f"{counts[n]} have {n or 'none'}" for n in range(needed) if counts[n]]
        if fewer:
            lines.append(
                f"{name}: {counts.total() - counts[needed]} of {len(found)} pairs have fewer than"
                f" {needed} earlier choices, and show what there is: {', '.join(fewer)}."
            )
        elif needed and found:
            lines.append(f"{name}: each of {len(found)} pairs has {needed} earlier choices.")
    return lines


def _without_own_questions(pairs: Mapping[str, Pairs]) -> tuple[dict[str, Pairs], list[str]]:
    """Leave out records whose own choices hold their question: they would show their answer."""
    kept = {
        name: [pair for pair in found if not asks(pair.choices, pair.question)]
        for name, found in pairs.items()
    }
    notes = [
        f"{name}: {lost} pairs left out ({OWN_QUESTION})."
        for name, found in pairs.items()
        if (lost := len(found) - len(kept[name]))
    ]
    repeats = {
        name: sum(len({*pair.choices}) < len(pair.choices) for pair in found)
        for name, found in kept.items()
    }
    notes += [
        f"{name}: the records of {count} pairs repeat one of their earlier choices."
        for name, count in repeats.items()
        if count
    ]
    return kept, notes


def asks(choices: Iterable[EarlierChoice], question: str) -> bool:
    """Return whether one of `choices` is about `question`, up to case, spaces and encoding."""
    wanted = normalised(question)
    return any(normalised(choice.question) == wanted for choice in choices)


def _with_support(
    pairs: Mapping[str, Pairs], held: int, seed: int
) -> tuple[dict[str, Pairs], dict[str, Pairs]]:
    """Split validation and test pairs into those to score and support, each in the given order."""
    asked = {
        (_person(pair), normalised(choice.question))
        for found in pairs.values()
        for pair in found
        for choice in pair.choices
    }
    kept, support = dict(pairs), {}
    for name in SCORED:
        if name not in pairs:
            continue
        aside = _drawn_support(pairs[name], held, seed)
        aside |= {
            pair.id for pair in pairs[name] if (_person(pair), normalised(pair.question)) in asked
        }
        kept[name] = [pair for pair in pairs[name] if pair.id not in aside]
        support[name] = [pair for pair in pairs[name] if pair.id in aside]
    return kept, support


def _person(pair: PreferencePair) -> str:
    """Return whose choice it is; "" if records do not say, so that it may be anybody's."""
    return pair.user_id if names_person(pair) else ""


def _drawn_support(pairs: Pairs, held: int, seed: int) -> set[str]:
    """Return the ids of `held` pairs of each person, or all but one if there are no more.

    Evenly drawn over dimensions and levels. People whose records bring choices need none.
    """
    aside: set[str] = set()
    for found in _by_person(pair for pair in pairs if not pair.choices).values():
        aside |= {pair.id for pair in drawn_order(found, seed)[: min(held, len(found) - 1)]}
    return aside


def _by_person(pairs: Iterable[PreferencePair]) -> dict[str, Pairs]:
    """Group the pairs of named people."""
    people: dict[str, Pairs] = defaultdict(list)
    for pair in pairs:
        if names_person(pair):
            people[pair.user_id].append(pair)
    return people


def _from_support(pairs: Pairs, support: Pairs, needed: int, seed: int) -> Pairs:
    """Give each pair its person's support, the same for all of them, but its own question."""
    shown = {person: drawn_order(found, seed) for person, found in _by_person(support).items()}
    given = []
    for pair in pairs:
        own = pair.choices or tuple(
            choice_of(one)
            for one in shown.get(pair.user_id, ())
            if normalised(one.question) != normalised(pair.question)
        )
        given.append(replace(pair, choices=own[:needed]))
    return given


def _from_others(pairs: Pairs, needed: int, seed: int) -> Pairs:
    """Give each pair choices from its person's other pairs, one a question."""
    people: dict[str, dict[str, Pairs]] = {}
    for person, found in _by_person(pairs).items():
        questions = people.setdefault(person, {})
        for pair in sorted(found, key=lambda pair: pair.id):
            questions.setdefault(normalised(pair.question), []).append(pair)
    given = []
    for pair in pairs:
        own = pair.choices
        if not own and names_person(pair):
            own = _drawn_choices(pair, people[pair.user_id], needed, seed)
        given.append(replace(pair, choices=own[:needed]))
    return given


def _drawn_choices(
    pair: PreferencePair, questions: Mapping[str, Pairs], needed: int, seed: int
) -> tuple[EarlierChoice, ...]:
    """Draw up to `needed` questions but the pair's own, and one choice about each.

    Draws one by one, so that more choices begin with the fewer ones.
    """
    draw, names = Random(f"{seed}\n{pair.id}"), list(questions)
    drawn: dict[str, EarlierChoice] = {}
    own = normalised(pair.question)
    while len(drawn) < min(needed, len(names) - 1):
        name = names[draw.randrange(len(names))]
        if name != own and name not in drawn:
            drawn[name] = choice_of(draw.choice(questions[name]))
    return tuple(drawn.values())


def choice_of(pair: PreferencePair) -> EarlierChoice:
    return EarlierChoice(pair.question, pair.chosen, pair.rejected)


def _people(pairs: Collection[PreferencePair]) -> str:
    named = {pair.user_id for pair in pairs if names_person(pair)}
    return f"{len(named)} people" if named else f"{len({p.user_id for p in pairs})} prompts"
