"""Checks that an adapter is put on the base model it was trained on.

They compare the weight hash that the adapter's run recorded, or else the model names.
"""

import filecmp
import re
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

from mvp_align.errors import UserError
from mvp_align.modeling.adapter_folder import Settings
from mvp_align.modeling.base import quantization_of
from mvp_align.modeling.fingerprint import fingerprint
from mvp_align.runtime.json_files import from_json

IN_HUB_CACHE = re.compile(r"models--(.+?)(?:[/\\]snapshots[/\\][^/\\]+)?[/\\]*$")
"""A folder of huggingface_hub's cache, whose name contains the model id."""
TWIN = re.compile(r"(-unsloth)?-bnb-4bit$", re.IGNORECASE)
"""Suffix that marks a 4-bit copy of a model, after the name of the original."""
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_base(
    path: Path,
    settings: Settings,
    base_id: str,
    *,
    setting: str = "adapter",
    any_base: bool = False,
) -> list[str]:
    """Return notes on putting the adapter in `path` on `base_id`; empty if all is well.

    Raises UserError if the names differ and the adapter's run recorded no hash. If it recorded one,
    `confirm_base` decides after the weights are loaded.
    """
    made_for = settings.get("base_model_name_or_path")
    if not made_for:
        return [
            f"{setting}={path} does not say which model it was trained on; it is put on {base_id}"
        ]
    if any_base:
        return [
            f"{setting}={path} was trained on {made_for} and is put on {base_id} unchecked"
            " (adapter_base=any)"
        ] * (made_for != base_id)
    if not same_base(made_for, base_id):
        if _recorded(path):
            return []
        raise _other_base(path, setting, made_for, base_id)
    if bool(TWIN.search(hub_id(made_for))) != bool(TWIN.search(hub_id(base_id))):
        return [
            f"{setting}={path} was trained on {made_for} and is put on {base_id}: one of them is in"
            " 4 bits"
        ]
    if (
        _folder_of(made_for) is None
        and HUB_ID.fullmatch(made_for)
        and _folder_of(base_id)
        and hub_id(base_id) == base_id
    ):
        return [
            f"{setting}={path} was trained on {made_for}; {base_id} is taken for it by its name"
            " alone"
        ]
    return []


def confirm_base(
    path: Path, settings: Settings, base: PreTrainedModel, setting: str = "adapter"
) -> None:
    """Raise UserError if the adapter's run recorded other base weights than those of `base`.

    The hash of one model also depends on its precision, its quantisation, and the version of
    transformers that named its parameters. Different hashes prove nothing unless these match.
    """
    known = _recorded(path)
    if known is None or known["hashes"]["base_model"] == fingerprint(base):
        return
    made_for, base_id = settings.get("base_model_name_or_path") or "", str(base.name_or_path)
    loaded = known.get("loaded", {})
    dtype = str(base.dtype).removeprefix("torch.")
    comparable = (
        (loaded.get("dtype"), loaded.get("quantization")) == (dtype, "none")
        and quantization_of(base) == "none"
        and known.get("versions", {}).get("transformers") == transformers.__version__
    )
    if comparable or not same_base(made_for, base_id):
        raise _other_base(path, setting, made_for, base_id, hashed=True)


def _other_base(
    path: Path, setting: str, made_for: str, base_id: str, *, hashed: bool = False
) -> UserError:
    why = " The run that trained it has hashed other weights." if hashed else ""
    if (
        not hashed
        and _looks_local(made_for)
        and _folder_of(made_for) is None
        and _last(made_for) == _last(base_id)
    ):
        why = f" ({made_for} is not here to be compared, and a folder's last name says little.)"
    return UserError(
        f"{setting}={path} was trained on {made_for}, but the model is {base_id}.{why} Choose the"
        " model it was trained on (model=... or model.id=...), or, if you know that they are the"
        " same, set adapter_base=any."
    )


def same_base(made_for: str, base_id: str) -> bool:
    """Return whether two names mean the same model.

    That holds for two Hub ids (4-bit copies and cache folders included), for one folder or two with
    identical weights, and for a Hub id and a folder with the same last name.
    """
    one, other = hub_id(made_for), hub_id(base_id)
    untwinned = [TWIN.sub("", name) for name in (one, other)]
    if untwinned[0] == untwinned[1]:
        return True
    here, there = _folder_of(one), _folder_of(other)
    if here and there:
        return _same_weights(here, there)
    local = [_looks_local(name) for name in (one, other)]
    if all(local):
        return False
    if not any(local) and "/" in one and "/" in other:
        return untwinned[0].lower() == untwinned[1].lower()
    return _last(one) == _last(other)


def hub_id(name: str) -> str:
    """Return the Hub id of a cache folder, and any other name unchanged."""
    found = IN_HUB_CACHE.search(name)
    return found[1].replace("--", "/") if found else name.rstrip("/\\")


def _last(name: str) -> str:
    return TWIN.sub("", re.split(r"[/\\]", hub_id(name))[-1]).lower()


def _looks_local(name: str) -> bool:
    return _folder_of(name) is not None or not HUB_ID.fullmatch(name) or name.startswith(".")


def _folder_of(name: str) -> Path | None:
    folder = Path(name).expanduser()
    return folder.resolve() if folder.is_dir() else None


def _same_weights(one: Path, other: Path) -> bool:
    """Return whether two folders hold byte-identical safetensors files."""
    names = sorted(path.name for path in one.glob("*.safetensors"))
    if one == other:
        return True
    if not names or names != sorted(path.name for path in other.glob("*.safetensors")):
        return False
    same, _, _ = filecmp.cmpfiles(one, other, names, shallow=False)
    return len(same) == len(names)


def _recorded(path: Path) -> dict[str, Any] | None:
    """Return environment.json of the adapter's run, or None if it records no base hash."""
    folder = path.resolve()
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent
    try:
        known = from_json((run / "environment.json").read_text("utf-8"))
        return known if known["hashes"]["base_model"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
