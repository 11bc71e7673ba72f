"""docs/training.md names only commands and options that there are."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from models.__main__ import _parser

PAGE = Path(__file__).resolve().parents[3] / "docs" / "training.md"
COMMANDS = re.findall(r"(?:^\$ |do |-m )models? ([a-z0-9-]+)(.*?)(?:#|;|$)", PAGE.read_text(), re.MULTILINE)


def subparsers() -> dict[str, argparse.ArgumentParser]:
    action = next(a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


@pytest.mark.parametrize(("command", "rest"), COMMANDS, ids=[f"{c}{i}" for i, (c, _) in enumerate(COMMANDS)])
def test_each_command_takes_its_options(command: str, rest: str) -> None:
    parser = subparsers()[command]
    known = {option for action in parser._actions for option in action.option_strings}
    assert set(re.findall(r"--[a-z0-9-]+", rest)) <= known


def test_every_step_is_there() -> None:
    named = {command for command, _ in COMMANDS}
    steps = {"train", "prune", "check-int8", "train-int8", "search", "distill", "publish", "gain", "evaluate"}
    assert steps | {"report"} <= named
