"""What shared prompts save grows with the choices shown, on the same pairs."""

from benchmarks.history_tokens import count_tokens


def test_more_choices_share_more() -> None:
    none, four = count_tokens(0), count_tokens(4)
    assert none.prompt < four.prompt / 10
    for found in (none, four):
        assert found.by_person < found.by_pair < found.apart
    assert none.apart / none.by_pair < 1.3 < 1.7 < four.apart / four.by_pair < 2
    # the answers are the same: what is shared is the prompt, once a pair instead of twice
    assert four.apart - four.by_pair > 20 * (none.apart - none.by_pair)
