"""Read and write bundles as portable JSON files, with a digest that detects changes."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models.zoo.files import write_whole
from service.bench.bundle import SCHEMA_VERSION, Bundle
from service.errors import InvalidBundle, error_words


def to_json(bundle: Bundle) -> str:
    """Serialize a bundle with the digest of its content."""
    content = bundle.model_dump(mode="json")
    return json.dumps({"digest": _digest(content), **content}, separators=(",", ":"), allow_nan=False) + "\n"


def from_json(text: str | bytes, what: str = "bundle") -> Bundle:
    """Parse a bundle. Raises InvalidBundle, whose message starts with `what`."""
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):  # ValueError includes UnicodeDecodeError and JSONDecodeError
        raise InvalidBundle(f"{what}: not JSON") from None
    if not isinstance(content, dict) or "schema_version" not in content:
        raise InvalidBundle(f"{what}: not a bundle, no schema_version")
    version = content["schema_version"]
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise InvalidBundle(f"{what}: schema version {str(version)[:20]} (allowed: {SCHEMA_VERSION})")
    digest = content.pop("digest", None)
    if digest is None:
        raise InvalidBundle(f"{what}: no digest")
    if digest != _digest(content):
        raise InvalidBundle(f"{what}: changed after it was written, its digest does not match")
    try:
        return Bundle.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidBundle(": ".join(filter(None, [what, "not a valid bundle", field, reason]))) from None


def stated_digest(text: str | bytes) -> str:
    """Return the digest that the bundle in `text` states.

    Call this only for a text that `from_json` accepts.
    """
    digest: str = json.loads(text)["digest"]
    return digest


def read_bundle(path: Path) -> Bundle:
    """Read a bundle from a file. Raises InvalidBundle with the file's name."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InvalidBundle(f"{path.name} cannot be read: {error_words(error)}") from None
    return from_json(text, path.name)


def write_bundle(path: Path, bundle: Bundle) -> None:
    """Write the bundle to `path` atomically, readable by all users. Raises OSError."""
    write_whole(path, to_json(bundle).encode())
    path.chmod(0o644)


def json_schema() -> str:
    """Return the JSON Schema of a bundle file: the content of docs/bundle.schema.json."""
    schema = Bundle.model_json_schema(mode="serialization")
    schema["properties"] = {
        "digest": {
            "type": "string",
            "pattern": "^[0-9a-f]{64}$",
            "description": "SHA-256 of the other fields, as JSON with sorted keys and without spaces",
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
