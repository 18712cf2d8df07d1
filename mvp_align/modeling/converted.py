"""What a converted model was made from, as its folder records it (`mvp-align convert`).

Nothing here imports torch, because reports read it.
"""

from pathlib import Path
from typing import Any

from mvp_align.config import Model
from mvp_align.errors import UserError
from mvp_align.runtime.json_files import from_json

CONVERSION = "conversion.json"


def conversion_of(model: Model) -> dict[str, Any] | None:
    """Return the record in the folder that `model.id` names, or None if there is none.

    Raises UserError for a record that cannot be read.
    """
    path = Path(model.id).expanduser() / CONVERSION
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = from_json(path.read_text("utf-8"))
        return {"repo": record["repo"], "revision": record["revision"], "files": record["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not what `mvp-align convert` wrote ({type(error).__name__}: {error}):"
            " convert the model again."
        ) from None
