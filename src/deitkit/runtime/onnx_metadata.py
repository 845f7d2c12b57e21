"""What an exported ONNX file says of itself: JSON texts under names of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from deitkit.errors import ModelFileError
from deitkit.runtime.strict_json import load_json

PREFIX = "deitkit."
SCHEMA = 1


def metadata_texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Each fact as an ASCII JSON text, and the schema they follow."""
    return {
        PREFIX + key: json.dumps(value, allow_nan=False)
        for key, value in (dict(facts) | {"schema": SCHEMA}).items()
    }


def read_metadata(texts: Mapping[str, str], subject: object) -> dict[str, Any]:
    """The facts back.

    Raises:
        ModelFileError: NOT_OURS, no export of deitkit's; NEWER; JSON.
    """
    own = {
        key[len(PREFIX) :]: load_json(text.encode(), subject)
        for key, text in texts.items()
        if key.startswith(PREFIX)
    }
    schema = own.get("schema")
    if type(schema) is not int or schema < 1:
        raise ModelFileError(
            "NOT_OURS",
            subject,
            "it does not say its classes and preprocessing",
            "use a file that `deitkit export to=onnx` wrote",
        )
    if schema > SCHEMA:
        raise ModelFileError(
            "NEWER",
            subject,
            f"written in export format {schema}, this deitkit reads up to {SCHEMA}",
            "update deitkit",
        )
    return own
