"""A training's state in a file that is whole or not there, and that says what it belongs to."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.zoo.files import write_whole

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or belongs to another training; the message says how it differs."""


def save(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write `state`, tensors and plain values, with what it belongs to; whole or not at all.

    `identity` is plain values as JSON has them.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "identity": json.dumps(identity, sort_keys=True), "state": state}, buffer)
    write_whole(path, buffer.getvalue())


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Identity and state of a checkpoint; nothing but tensors and plain values is unpickled.

    Raises FileNotFoundError where there is none and CheckpointError where it is damaged or another format.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content["format"]
        identity, state = json.loads(content["identity"]), content["state"]
    except FileNotFoundError:
        raise
    except (
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
        pickle.UnpicklingError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} is no whole checkpoint ({reason}); remove it to start afresh"
        ) from error
    if found != FORMAT:
        raise CheckpointError(f"{path} has format {found}; this version reads {FORMAT}")
    return identity, state


def require_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise CheckpointError, naming every entry that differs, unless a checkpoint belongs to `wanted`."""
    plain = json.loads(json.dumps(wanted))
    differing = [
        f"{key} is {_short(a)}, wanted is {_short(b)}"
        for key, (a, b) in _differences("", found, plain).items()
    ]
    if differing:
        raise CheckpointError(
            f"{path} is of another training: {'; '.join(differing)}. Give another folder with --runs, or "
            f"remove it to start afresh"
        )


def _differences(prefix: str, a: Any, b: Any) -> dict[str, tuple[Any, Any]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        found = {}
        for key in sorted(a.keys() | b.keys()):
            found |= _differences(f"{prefix}.{key}" if prefix else key, a.get(key), b.get(key))
        return found
    return {} if a == b else {prefix: (a, b)}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def epochs_done(state: Mapping[str, Any]) -> int:
    """How many whole epochs are behind a training's state."""
    return len(json.loads(state["history"]))


def made_with(state: Mapping[str, Any]) -> str:
    """On which devices, and with which torch, the epochs behind a training's state were trained."""
    epochs = json.loads(state["history"])
    each = (f"{e.get('device', 'cpu')}, torch {e.get('torch', 'of a version not kept')}" for e in epochs)
    return " and ".join(dict.fromkeys(each))


def misfits(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What keeps one state dict from taking the place of another, in words; empty where nothing does."""
    problems = [f"{key} is missing" for key in wanted.keys() - found.keys()]
    problems += [f"{key} is left over" for key in found.keys() - wanted.keys()]
    problems += [
        f"{key} is {tuple(found[key].shape)}, the network's {tuple(wanted[key].shape)}"
        for key in wanted.keys() & found.keys()
        if found[key].shape != wanted[key].shape
    ]
    return sorted(problems)
