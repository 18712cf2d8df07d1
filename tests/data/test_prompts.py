"""Prompts are exact to the character, with exactly one BOS token."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mvp_align.config import Config, Prompt, packaged_prompt
from mvp_align.data.prompts import PAPER, chat_turn, prompts_sha256, render, render_prompts
from mvp_align.errors import UserError
from mvp_align.schema import EarlierChoice, PreferencePair, Profile, PromptedPair

PERSON = PreferencePair(
    id="p1",
    user_id="user7",
    question="How do I sleep {better}?",
    chosen="Keep fixed hours.",
    rejected="Nobody needs sleep.",
    profile=Profile(
        "65+ years old",
        "Female",
        "Retired",
        "Vocational",
        "Widowed",
        "Korea, Republic of",
        "Fluent",
    ),
    preference="High fluency, Low creativity.",
)
STRANGER = PreferencePair(
    id="u1",
    user_id="prompt-1",
    question="  Why is the sky blue?\n",
    chosen="Scattering.",
    rejected="Paint.",
    profile_text="\n I value honesty above all. \n",
    preference="High factuality.",
)
PAPER_TEXT = (
    "User profile: Age: 65+ years old, Gender: Female, Employment: Retired, Education: Vocational,"
    " Marital Status: Widowed, Birth Country/Region: Korea, Republic of.\nQuestion: How do I sleep"
    " {better}?"
)
LLAMA2_CHAT = (
    "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'].strip() }} [/INST]{% endfor %}"
)


@pytest.fixture(scope="session")
def prompts(compose: Any) -> dict[str, Prompt]:
    return {
        name: compose(f"prompt={name}").prompt
        for name in ("paper", "preference", "question", "chat")
    }


@pytest.fixture(scope="session")
def smollm2(compose: Any) -> Any:
    from mvp_align.modeling.source import load_tokenizer, packaged_gguf

    config: Config = compose()
    if packaged_gguf(config.model) is None:
        pytest.skip("the demo model's package is not installed: `make setup`")
    return load_tokenizer(config.model)


@pytest.fixture
def llama2(shared: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(shared / "data" / "llama2_tokenizer")


class NoChat:
    """A base model's tokenizer, with only what prompts use."""

    bos_token: str | None = "<s>"
    bos_token_id: int | None = 1
    chat_template: str | None = None
    name_or_path = "meta-llama/Llama-2-7b-hf"

    def get_chat_template(self) -> str:
        raise AssertionError("a prompt without chat asks for no chat template")

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        raise AssertionError("a prompt without chat asks for no chat template")

    def encode(self, text: str) -> list[int]:
        raise AssertionError("rendering needs no token ids")


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
DATED = [
    ('{{- "Now: " + strftime_now("%d %b %Y %H:%M:%S") + "\n" }}', "Now: 03 Feb 2031 00:00:00\n"),
    ("{%- set f = '%B %-d' %}{{ strftime_now(f ~ ', 100%%d') }}\n", "February 3, 100%d\n"),
    (  # Llama-3.1's way
        (
            "{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set"
            " date_string = strftime_now('%d %b %Y') %}{%- endif %}{%- endif %}Today: {{"
            " date_string }}. "
        ),
        "Today: 03 Feb 2031. ",
    ),
    ("\n  {% if true %}{{ strftime_now('%Y-%m-%d') }} {% endif %}", "\n2031-02-03 "),
    ("no date ", "no date "),
]


@pytest.mark.parametrize(("opening", "shown"), DATED)
def test_a_template_that_states_the_time_states_the_configs_date(
    opening: str,
    shown: str,
    smollm2: Any,
    prompts: dict[str, Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(smollm2, "chat_template", opening + CHATML)
    prompt = replace(prompts["chat"], date="2031-02-03")
    (pair,) = render_prompts([PERSON], prompt, smollm2)
    assert pair.prompt == f"{shown}<|im_start|>user\n{PAPER_TEXT}<|im_end|>\n"
    monkeypatch.undo()
    plain = smollm2.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    # a template without a date is left alone
    assert chat_turn("Hi", smollm2, "2031-02-03") == plain


def test_the_hash_of_prompts_tells_dates_apart(
    smollm2: Any, prompts: dict[str, Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "chat_template", DATED[0][0] + CHATML)
    dates = ("2024-07-26", "2024-07-27", "2024-07-26")
    first, other, again = (
        prompts_sha256(
            render_prompts([PERSON, STRANGER], replace(prompts["chat"], date=date), smollm2)
        )
        for date in dates
    )
    assert first == again != other


def test_structured_profile_in_every_prompt(prompts: dict[str, Prompt]) -> None:
    assert render(PERSON, PAPER) == PAPER_TEXT
    assert render(PERSON, prompts["paper"]) == PAPER_TEXT
    assert render(PERSON, prompts["chat"]) == PAPER_TEXT
    assert render(PERSON, prompts["question"]) == "How do I sleep {better}?"
    assert render(PERSON, prompts["preference"]) == PAPER_TEXT.replace(
        "\nQuestion", "\nUser values: High fluency, Low creativity.\nQuestion"
    )


def test_own_template_with_each_field() -> None:
    fields = (
        "age|gender|employment_status|education|marital_status|birth_country|"
        "english_proficiency|preference"
    )
    template = "|".join(f"{{{name}}}" for name in fields.split("|")) + "|{question}"
    assert (
        render(PERSON, Prompt("mine", template))
        == "65+ years old|Female|Retired|Vocational|Widowed|Korea, Republic of|Fluent|High fluency,"
        " Low creativity.|How do I sleep {better}?"
    )


@pytest.mark.parametrize("name", ["paper", "preference", "chat"])
def test_free_text_profile_is_prompted_as_in_uf_p_4(name: str, prompts: dict[str, Prompt]) -> None:
    assert render(STRANGER, prompts[name]) == "I value honesty above all.\nWhy is the sky blue?"


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_profile_leaves_the_question_alone(empty: str, prompts: dict[str, Prompt]) -> None:
    for prompt in prompts.values():
        assert render(replace(STRANGER, profile_text=empty), prompt) == "Why is the sky blue?"


def test_question_shows_neither_kind_of_profile(prompts: dict[str, Prompt]) -> None:
    assert render(STRANGER, prompts["question"]) == "Why is the sky blue?"
    assert render(PERSON, prompts["question"]) == PERSON.question


def test_a_template_without_the_person_is_filled_for_every_pair() -> None:
    prompt = Prompt("pirate", "Answer as a pirate. {question}")
    assert render(STRANGER, prompt) == "Answer as a pirate. Why is the sky blue?"
    assert render(PERSON, prompt) == f"Answer as a pirate. {PERSON.question}"


def test_a_template_of_values_alone_shows_a_free_text_profile() -> None:
    prompt = Prompt("values", "{preference} {question}")
    assert render(STRANGER, prompt) == "I value honesty above all.\nWhy is the sky blue?"


def test_render_prompts_keeps_order_ids_and_answers() -> None:
    assert render_prompts([STRANGER, PERSON], PAPER, NoChat()) == [
        PromptedPair(
            "u1",
            "prompt-1",
            "I value honesty above all.\nWhy is the sky blue?",
            STRANGER.chosen,
            STRANGER.rejected,
        ),
        PromptedPair("p1", "user7", PAPER_TEXT, PERSON.chosen, PERSON.rejected),
    ]


def test_chat_without_a_chat_template(prompts: dict[str, Prompt]) -> None:
    with pytest.raises(UserError) as caught:
        render_prompts([PERSON], prompts["chat"], NoChat())
    assert (
        str(caught.value)
        == "prompt=chat: the tokenizer of meta-llama/Llama-2-7b-hf has no chat template. Choose a"
        " chat model (such as model=llama2_7b_chat) or prompt=paper."
    )


@pytest.mark.reference
def test_llama2_base_tokenizer_has_no_chat_template(
    llama2: Any, prompts: dict[str, Prompt]
) -> None:
    with pytest.raises(UserError, match="has no chat template"):
        render_prompts([PERSON], prompts["chat"], llama2)


@pytest.mark.reference
def test_llama2_chat_prompt_has_one_bos(llama2: Any, prompts: dict[str, Prompt]) -> None:
    from mvp_align.scoring.tokens import encode

    assert llama2("hello world").input_ids == [1, 22172, 3186]  # this tokenizer adds BOS by itself
    llama2.chat_template = LLAMA2_CHAT
    (pair,) = render_prompts([PERSON], prompts["chat"], llama2)
    assert pair.prompt == f"[INST] {PAPER_TEXT} [/INST]"
    ids = encode(pair.prompt, llama2)
    assert ids.count(llama2.bos_token_id) == 1
    assert ids[0] == 1
    whole = [{"role": "user", "content": PAPER_TEXT}]
    assert ids == llama2.apply_chat_template(
        whole, tokenize=True, add_generation_prompt=True, return_dict=False
    )


@pytest.mark.reference
def test_a_template_without_bos_text_loses_nothing(llama2: Any) -> None:
    llama2.chat_template = LLAMA2_CHAT.removeprefix("{{ bos_token }}")
    assert chat_turn("Hi", llama2) == "[INST] Hi [/INST]"
    assert llama2(chat_turn("Hi", llama2)).input_ids.count(1) == 1


@pytest.mark.reference
def test_plain_llama2_prompt_has_one_bos(llama2: Any, prompts: dict[str, Prompt]) -> None:
    for name in ("paper", "preference", "question"):
        (pair,) = render_prompts([PERSON], prompts[name], llama2)
        ids = llama2(pair.prompt).input_ids
        assert (ids[0], ids.count(1)) == (1, 1)


def test_smollm2_chat_prompt_is_its_own_template_in_full(
    smollm2: Any, prompts: dict[str, Prompt]
) -> None:
    """Its BOS is the text that opens each turn and is not added by the tokenizer, so it has to
    stay."""
    assert smollm2.encode("a")[:1] != [smollm2.bos_token_id]
    (pair,) = render_prompts([PERSON], prompts["chat"], smollm2)
    assert pair.prompt.startswith("<|im_start|>")
    assert pair.prompt.endswith(
        f"<|im_start|>user\n{PAPER_TEXT}<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = smollm2(pair.prompt).input_ids
    assert ids == smollm2.apply_chat_template(
        [{"role": "user", "content": PAPER_TEXT}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=False,
    )
    assert ids[:2].count(smollm2.bos_token_id) == 1


def test_smollm2_tokenizer_is_ready_to_pad(smollm2: Any) -> None:
    assert (len(smollm2), smollm2.padding_side) == (49152, "right")
    assert smollm2.pad_token_id is not None
    assert smollm2.decode(smollm2(PAPER_TEXT).input_ids) == PAPER_TEXT


CHOICES = (
    EarlierChoice("Tea {or} coffee? ", "Tea.", " Coffee."),
    EarlierChoice("Sea or hills?", "Sea.", "Hills."),
    EarlierChoice("Now or later?", "Now.", "Later."),
)


HISTORY = packaged_prompt("history")


def test_earlier_choices_stand_before_the_question() -> None:
    history = replace(HISTORY, choices=2)
    shown = (
        "Question: Tea {or} coffee?\nPreferred answer:\nTea.\nOther answer:\nCoffee.\n\n"
        "Question: Sea or hills?\nPreferred answer:\nSea.\nOther answer:\nHills.\n\n"
    )
    asked = "Question: How do I sleep {better}?\nPreferred answer:\n"
    pair = replace(PERSON, choices=CHOICES)
    assert HISTORY.choices == 4
    assert render(pair, history) == shown + asked
    assert render(pair, replace(history, choices=0)) == render(PERSON, history) == asked
    # a person's whole template, and a free-text profile, which fills none
    with_person = replace(history, template=f"{{choices}}{PAPER.template}")
    assert render(pair, with_person) == shown + PAPER_TEXT
    stranger = replace(STRANGER, choices=CHOICES)
    assert render(stranger, with_person) == (
        f"{shown}I value honesty above all.\nWhy is the sky blue?"
    )
    assert render(stranger, history).endswith("Question: Why is the sky blue?\nPreferred answer:\n")
    assert render(pair, PAPER) == PAPER_TEXT


def test_the_hash_of_prompts_covers_the_choices(smollm2: Any) -> None:
    hashes = [
        prompts_sha256(render_prompts([replace(PERSON, choices=some)], HISTORY, smollm2))
        for some in ((), CHOICES[:1], CHOICES, CHOICES[::-1])
    ]
    assert len({*hashes}) == 4
