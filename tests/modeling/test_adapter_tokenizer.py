"""An adapter's own tokenizer is used and noted, or refused if its tokens lack embeddings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from mvp_align.config import Model
from mvp_align.errors import UserError
from mvp_align.modeling.adapter_tokenizer import differences, run_tokenizer, tokenizer_notes
from mvp_align.modeling.source import load_tokenizer

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
LOWER = Lowercase()
Change = Callable[[PreTrainedTokenizerBase], Any]


@pytest.fixture(scope="module")
def model_config(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model's config with a tokenizer of a few words, which loads at once."""
    words = ["<unk>", "</s>", "<s>", "<other>", "Question", "why", "question", "who", ",", "?", ":"]
    made = Tokenizer(
        WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    made.pre_tokenizer = Whitespace()
    folder = tmp_path_factory.mktemp("models") / "few-words"
    own = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", eos_token="</s>", bos_token="<s>"
    )
    own.chat_template = TEMPLATE.replace("] ", "]: ")
    own.save_pretrained(folder)
    LlamaConfig(vocab_size=len(words), name_or_path="x").save_pretrained(folder)
    return Model("few-words", str(folder))


@pytest.fixture
def left(model_config: Model, tmp_path: Path) -> Callable[[Change], Path]:
    """`left(change)`: an adapter's folder with the model's tokenizer after `change`."""

    def saved(change: Change) -> Path:
        own = AutoTokenizer.from_pretrained(model_config.id)
        change(own)
        own.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return saved


def test_the_models_own_tokenizer_needs_no_word(model_config: Model, tmp_path: Path, left) -> None:
    (tmp_path / "none").mkdir()
    for folder in (
        left(lambda own: None),
        tmp_path / "none",
        left(lambda own: setattr(own, "chat_template", None)),
    ):
        assert not differences(load_tokenizer(model_config), run_tokenizer(model_config, folder))
        assert (
            tokenizer_notes(model_config, folder, "adapter", run_tokenizer(model_config, folder))
            == []
        )
    assert run_tokenizer(model_config, None).chat_template
    assert run_tokenizer(
        model_config, left(lambda own: setattr(own, "chat_template", None))
    ).chat_template


def test_another_padding_token_is_no_difference(model_config: Model, left) -> None:
    assert (
        tokenizer_notes(
            model_config, left(lambda own: setattr(own, "pad_token", "<other>")), "adapter", None
        )
        == []
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda own: setattr(own, "chat_template", TEMPLATE), "chat template"),
        (lambda own: setattr(own, "eos_token", "<other>"), "eos_token <other>, not "),
        (
            lambda own: own.backend_tokenizer.__setattr__("normalizer", LOWER),
            "how text is cut into tokens",
        ),
    ],
)
def test_another_tokenizer_is_used_and_said_so(
    model_config: Model, left, change: Change, said: str
) -> None:
    folder = left(change)
    used, of_model = run_tokenizer(model_config, folder), load_tokenizer(model_config)
    assert used.padding_side == "right"
    (note,) = tokenizer_notes(model_config, folder, "adapter", used)
    assert note.startswith(f"tokenizer: the adapter's, not {model_config.id}'s; ")
    assert said in note
    (note,) = tokenizer_notes(model_config, folder, "train.reference", of_model)
    assert note.startswith(f"train.reference={folder} brings a tokenizer that is not used; ")
    assert tokenizer_notes(model_config, folder, "train.reference", used) == []


def test_the_chat_template_is_the_adapters(model_config: Model, left) -> None:
    used = run_tokenizer(model_config, left(lambda own: setattr(own, "chat_template", TEMPLATE)))
    assert (
        used.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "[user] Hi"
    )


def test_tokens_that_the_model_has_no_embedding_of_are_refused_with_a_way_out(
    model_config: Model, left
) -> None:
    folder = left(lambda own: own.add_tokens(["<me>", "<you>"]))
    with pytest.raises(
        UserError, match=r"vocabulary of 13 tokens, and .* has 11.*resize_token_embeddings\(13\)"
    ):
        run_tokenizer(model_config, folder)


def test_a_broken_tokenizer_is_no_traceback(model_config: Model, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="the tokenizer there cannot be read"):
        run_tokenizer(model_config, tmp_path)
