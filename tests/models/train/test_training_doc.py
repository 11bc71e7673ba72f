"""docs/training.md names only existing commands and options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from models.cli import app

PAGE = Path(__file__).resolve().parents[3] / "docs" / "training.md"
COMMANDS = re.findall(r"(?:^\$ |do |-m )models? ([a-z0-9-]+)(.*?)(?:#|;|$)", PAGE.read_text(), re.MULTILINE)


def options() -> dict[str, set[str]]:
    """The options of each command."""
    group = get_command(app)
    commands = getattr(group, "commands")  # noqa: B009
    return {name: {o for p in command.params for o in p.opts} for name, command in commands.items()}


@pytest.mark.parametrize(("command", "rest"), COMMANDS, ids=[f"{c}{i}" for i, (c, _) in enumerate(COMMANDS)])
def test_documented_options_exist(command: str, rest: str) -> None:
    assert set(re.findall(r"--[a-z0-9-]+", rest)) <= options()[command]


def test_all_steps_are_documented() -> None:
    named = {command for command, _ in COMMANDS}
    steps = {"train", "prune", "check-int8", "train-int8", "search", "distill", "publish", "gain", "evaluate"}
    assert steps | {"report"} <= named
