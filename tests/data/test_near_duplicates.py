"""Near duplicates are those of the exact Jaccard similarity, whatever all texts have in common."""

import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_align.data.near_duplicates import BUCKET, NEAR, RUN, NearIndex, similarity, sketch

WORDS = ["".join(Random(n).choices("abcdefghijklmnop", k=3 + n % 6)) for n in range(400)]


def text_of(random: Random, words: int) -> str:
    return " ".join(random.choices(WORDS, k=words))


def jaccard(one: str, other: str) -> float:
    sets = [{t[i : i + RUN] for i in range(max(1, len(t) - RUN + 1))} for t in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def found_in(texts: list[str]) -> dict[int, int]:
    index, found = NearIndex(), {}
    for number, text in enumerate(texts):
        made = sketch(text)
        if match := index.find(made):
            found[number] = match[0]
        index.add(made)
    return found


@given(st.text("abc é中", min_size=1, max_size=60), st.text("abc é中", min_size=1, max_size=60))
def test_similarity_is_that_of_the_runs(one: str, other: str) -> None:
    one, other = " ".join(one.split()), " ".join(other.split())
    assert similarity(sketch(one), sketch(other)) == pytest.approx(jaccard(one, other))


def test_case_spaces_and_encoding_do_not_matter() -> None:
    assert similarity(sketch("Ｗhy  NOT\nnow?"), sketch("why not now?")) == 1


@pytest.mark.parametrize("shared", [0, 200], ids=["nothing shared", "a long system prompt"])
def test_copies_with_a_changed_word_are_found_and_nothing_else(shared: int) -> None:
    random = Random(3)
    prompt = text_of(random, shared)
    texts = [f"{prompt} {text_of(random, 60)}" for _ in range(300)]
    copies = {}
    for number in range(0, 300, 10):
        words = texts[number].split()
        words[-random.randrange(1, 50)] = "changed"
        copies[len(texts)] = number
        texts.append(" ".join(words))
    assert min(jaccard(texts[copy], texts[of]) for copy, of in copies.items()) >= NEAR
    assert max(jaccard(texts[0], text) for text in texts[1:290]) < NEAR
    assert found_in(texts) == copies


def test_many_copies_of_one_text_take_time_in_proportion() -> None:
    """Comparing each with all would take 64 times as long for eight times as many."""
    text = text_of(Random(5), 60)

    def seconds(count: int) -> float:
        start = time.process_time()
        assert len(found_in([f"{text} {number}" for number in range(count)])) == count - 1
        return time.process_time() - start

    seconds(BUCKET)
    assert seconds(2400) < 24 * seconds(300)


def test_short_texts_and_surrogates_have_sketches() -> None:
    for text in ("a", "no", "", "\ud800"):
        assert similarity(sketch(text), sketch(text)) == 1
    assert similarity(sketch("yes"), sketch("no")) == 0
