"""A bundle as a portable JSON file: whole or not at all, with a digest that reveals hand edits."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models.zoo.files import write_whole
from service.bench.bundle import SCHEMA_VERSION, Bundle
from service.errors import InvalidBundle


def to_json(bundle: Bundle) -> str:
    """The bundle as it is written to a file, with the digest of its content."""
    content = bundle.model_dump(mode="json")
    return json.dumps({"digest": _digest(content), **content}, separators=(",", ":"), allow_nan=False) + "\n"


def from_json(text: str | bytes, what: str = "The bundle") -> Bundle:
    """The bundle in `text`. InvalidBundle, which begins with `what`, says what is wrong with it."""
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError among them
        raise InvalidBundle(f"{what} is not JSON.") from None
    if not isinstance(content, dict) or "schema_version" not in content:
        raise InvalidBundle(f"{what} is JSON, but not a bundle: it has no schema_version.")
    found = content["schema_version"]
    if found != SCHEMA_VERSION or isinstance(found, bool):
        raise InvalidBundle(
            f"{what} has schema version {str(found)[:20]}; this version of Weigh-in reads {SCHEMA_VERSION}."
        )
    digest = content.pop("digest", None)
    if digest is None:
        raise InvalidBundle(f"{what} has no digest, so it was not written by Weigh-in as it is.")
    if digest != _digest(content):
        raise InvalidBundle(f"{what} was changed after it was written: its digest is another than it states.")
    try:
        return Bundle.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidBundle(f"{what} is not a valid bundle: {where}: {first['msg']}.") from None


def read_bundle(path: Path) -> Bundle:
    """Read a bundle's file. InvalidBundle names the file and says what is wrong with it."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InvalidBundle(f"{path.name} cannot be read: {error.strerror}.") from None
    return from_json(text, path.name)


def write_bundle(path: Path, bundle: Bundle) -> None:
    """Write the bundle to `path`, whole or not at all, readable by all: it is carried elsewhere.

    Raises OSError when the place cannot be written.
    """
    write_whole(path, to_json(bundle).encode())
    path.chmod(0o644)


def json_schema() -> str:
    """The JSON Schema of a bundle's file, as kept in docs/bundle.schema.json."""
    schema = Bundle.model_json_schema(mode="serialization")
    schema["properties"] = {
        "digest": {
            "type": "string",
            "pattern": "^[0-9a-f]{64}$",
            "description": "SHA-256 of the rest as JSON with sorted keys and without spaces",
        },
        **schema["properties"],
    }
    schema["required"] = ["digest", *schema["required"]]
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2) + "\n"


def _digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


if __name__ == "__main__":
    sys.stdout.write(json_schema())
