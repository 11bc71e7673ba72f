"""Checkpoints: files with the state of a training and with its identity, written atomically."""

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
    """A checkpoint is damaged or belongs to another training; the message lists the differences."""


def save(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write `state` (tensors and plain values) and the `identity` of its training to `path`, atomically.

    `identity` must be serialisable as JSON.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "identity": json.dumps(identity, sort_keys=True), "state": state}, buffer)
    write_whole(path, buffer.getvalue())


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the identity and the state of a checkpoint.

    Only tensors and plain values are unpickled. Raises FileNotFoundError if `path` is missing,
    CheckpointError if it is damaged or of another format.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        format_number = content["format"]
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
        raise CheckpointError(f"{path}: damaged checkpoint ({reason}); remove it to start again") from error
    if format_number != FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {format_number} (allowed: {FORMAT})")
    return identity, state


def require_identity(path: Path, stored: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise CheckpointError if the identity `stored`, read from the file `path`, differs from `expected`.

    The message has every difference.
    """
    plain = json.loads(json.dumps(expected))
    differing = [
        f"{key} is {_short(a)}, expected {_short(b)}"
        for key, (a, b) in _differences("", stored, plain).items()
    ]
    if differing:
        raise CheckpointError(
            f"{path}: belongs to another training: {'; '.join(differing)}; give another folder with --runs, "
            f"or remove it to start again"
        )


def _differences(prefix: str, a: Any, b: Any) -> dict[str, tuple[Any, Any]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        differing = {}
        for key in sorted(a.keys() | b.keys()):
            differing |= _differences(f"{prefix}.{key}" if prefix else key, a.get(key), b.get(key))
        return differing
    return {} if a == b else {prefix: (a, b)}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def epochs_done(state: Mapping[str, Any]) -> int:
    """Return how many epochs of a training were complete when its state was saved."""
    return len(json.loads(state["history"]))


def made_with(state: Mapping[str, Any]) -> str:
    """Return the devices and torch versions that ran a training's epochs, e.g. `cpu, torch 2.9.1`."""
    epochs = json.loads(state["history"])
    builds = (
        f"{epoch.get('device', 'cpu')}, torch {epoch.get('torch', '(version unknown)')}" for epoch in epochs
    )
    return " and ".join(dict.fromkeys(builds))


def state_dict_problems(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return one message for each key of a state dict that is missing, unexpected or of another shape."""
    problems = [f"{key} is missing" for key in expected.keys() - stored.keys()]
    problems += [f"{key} is unexpected" for key in stored.keys() - expected.keys()]
    problems += [
        f"{key} is {tuple(stored[key].shape)}, the network's {tuple(expected[key].shape)}"
        for key in expected.keys() & stored.keys()
        if stored[key].shape != expected[key].shape
    ]
    return sorted(problems)
