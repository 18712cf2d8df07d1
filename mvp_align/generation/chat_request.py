"""A request to a chat model, and how material by other people is put into it.

All text by users and models reaches the model inside one JSON object. Quotes in a JSON string are
escaped, so no text can end its own quotation and speak as the one who asks.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mvp_align.generation.client import Message
from mvp_align.runtime.json_files import to_json


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """Messages, the parameters sent with them, and the JSON schema of the reply, if it has one."""

    messages: tuple[Message, ...]
    parameters: Mapping[str, Any]
    schema: Mapping[str, Any] | None

    def key(self, model: str) -> str:
        """Return the SHA-256 (hex) of model name, messages, parameters and schema.

        It excludes the address, because a reply is just as valid through another gateway. So two
        different models must not share one name.
        """
        content = [model, list(map(dict, self.messages)), dict(self.parameters), self.schema]
        return hashlib.sha256(
            json.dumps(content, sort_keys=True, allow_nan=False).encode()
        ).hexdigest()


def material_messages(task: str, material: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the task as system message, and the material as one JSON object."""
    return (
        {"role": "system", "content": task},
        {"role": "user", "content": to_json(dict(material), indent=1)},
    )


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of an object with exactly these properties.

    It uses only what every server with structured output supports, so it has no bounds.
    """
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
