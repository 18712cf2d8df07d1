"""`mvp-align convert`: first-generation Qwen in Qwen2's layout, without running Qwen's own code."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from mvp_align import __version__
from mvp_align.config import Model
from mvp_align.errors import UserError
from mvp_align.modeling.adapter_base import IN_HUB_CACHE, hub_id
from mvp_align.modeling.converted import CONVERSION
from mvp_align.modeling.qwen1_tokenizer import (
    END_OF_TEXT,
    RANKS_FILE,
    SPECIAL_IDS,
    TURN_END,
    TURN_START,
    qwen_tokenizer,
    read_ranks,
)
from mvp_align.modeling.qwen1_weights import (
    Qwen1Shape,
    check_complete,
    convert_shards,
    read_headers,
    shard_files,
    stored_dtype,
)
from mvp_align.modeling.source import PATHS, unavailable
from mvp_align.runtime import hub
from mvp_align.runtime.atomic import full_disk_explained, move_folder
from mvp_align.runtime.json_files import from_json, write_json
from mvp_align.runtime.yaml_files import validate_settings

CONFIG, GENERATION = "config.json", "generation_config.json"
WANTED = (CONFIG, GENERATION, RANKS_FILE, "*.safetensors", "LICENSE*", "NOTICE*")
"""What is fetched from the Hub. Code is not."""
SAMPLING = ("do_sample", "max_new_tokens", "repetition_penalty", "temperature", "top_k", "top_p")
"""Settings of generation_config.json that transformers knows too."""


def convert_qwen(source: str, target: Path, revision: str | None = None) -> Qwen1Shape:
    """Write `source`, a folder or Hub id of a first-generation Qwen, to `target` as a Qwen2 model.

    Config, weights, tokenizer and, for a chat model, its chat template are read as data; no code of
    the model runs. At most one file of weights is in memory. The folder's conversion.json records
    the repository, its commit and the hashes of the files that it was made from.

    Returns the shape that was read. Raises UserError, with nothing written, if `target` exists, the
    disk is full, or `source` is not available, is damaged, or is another kind of model.
    """
    if target.exists():
        raise UserError(f"{target} exists already: choose another folder, or delete it.")
    folder = _fetched(source, revision)
    shape = _read_shape(source, folder)
    generation = _generation_settings(folder)
    chat = generation.get("chat_format") == "chatml"
    stops = [TURN_END, TURN_START, END_OF_TEXT] if chat else [END_OF_TEXT]
    ends = {
        "eos_token_id": [SPECIAL_IDS[token] for token in stops],
        "pad_token_id": SPECIAL_IDS[END_OF_TEXT],
    }
    files = shard_files(folder)
    tensors = read_headers(files)
    config = shape.as_qwen2(stored_dtype(tensors), **ends)
    check_complete(tensors, config)
    tokenizer = qwen_tokenizer(read_ranks(folder / RANKS_FILE), chat=chat, longest=shape.context)
    aside = target.with_name(f".{target.name}-writing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with full_disk_explained(target):
            aside.mkdir(parents=True)
            convert_shards(files, aside)
            config.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
            kept = {name: generation[name] for name in SAMPLING if name in generation}
            write_json(aside / GENERATION, kept | ends)
            write_json(aside / CONVERSION, _record(source, folder))
            for licence in (*folder.glob("LICENSE*"), *folder.glob("NOTICE*")):
                shutil.copyfile(licence, aside / licence.name)
            move_folder(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return shape


def _fetched(source: str, revision: str | None) -> Path:
    """Return the folder of `source`, fetched from the Hub if it is an id there."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision:
            raise UserError(f"--revision {revision} is of a Hub id, and {source} is a folder.")
        return folder
    if source.startswith(PATHS):
        raise UserError(f"{source}: no such folder.")
    hub.go_offline_if_unreachable()
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=[*WANTED]))
    except (OSError, ValueError) as error:
        if hub.why_offline():
            raise UserError(f"no {source} here: {hub.not_cached_hint(source)}.") from error
        raise unavailable(Model(name=source, id=source, revision=revision), error) from error


def _read_shape(source: str, folder: Path) -> Qwen1Shape:
    settings = _read_object(folder / CONFIG)
    if settings.get("model_type") != "qwen":
        raise UserError(
            f"{source} is of the type {settings.get('model_type')}, and only first-generation Qwen"
            " (model_type qwen: Qwen-7B, Qwen-14B, their chat models) is converted."
        )
    return validate_settings(Qwen1Shape, settings, str(folder / CONFIG))


def _generation_settings(folder: Path) -> dict[str, Any]:
    """Return generation_config.json, which says whether it is a chat model. Early folders have
    none."""
    path = folder / GENERATION
    return _read_object(path) if path.is_file() else {}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = from_json(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} has no {path.name}: is it the whole folder of a model?"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch it again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no object: fetch it again.")
    return content


def _record(source: str, folder: Path) -> dict[str, Any]:
    """Return what conversion.json holds.

    `repo` and `revision` are None for a folder that does not lie in the Hub's cache.
    """
    known = IN_HUB_CACHE.search(str(folder))
    read = [CONFIG, GENERATION, RANKS_FILE, *(file.name for file in shard_files(folder))]
    return {
        "repo": hub_id(str(folder)) if known else None,
        "revision": folder.name if known else None,
        "source": source,
        "files": {name: _sha256(folder / name) for name in read if (folder / name).is_file()},
        "converter": f"mvp-align {__version__}",
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
