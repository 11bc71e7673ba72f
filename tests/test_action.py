"""The composite action and the workflow that uses it, run in bash as a runner does, without GitHub."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.gate.live import write_copy
from models.zoo.files import NETWORKS
from service.cli import load_command

ROOT = Path(__file__).resolve().parent.parent
ACTION = (ROOT / "action.yml").read_text()
WORKFLOW = (ROOT / ".github/workflows/gate.yml").read_text()
NETWORK = "models/zoo/networks/efficientnet-lite0-int8"
FASHION = NETWORKS / "fashion-inverted-residual-int8"


@dataclass
class Ended:
    """An action that has ended: exit code of its last step, its outputs, summary and error output."""

    code: int
    outputs: dict[str, str]
    summary: str
    errors: str


@dataclass
class Runner:
    """A job's folders; `run` takes the inputs of the action."""

    workspace: Path
    temporary: Path
    path: list[str] = field(default_factory=lambda: [str(Path(sys.executable).parent), os.environ["PATH"]])

    def run(self, **given: str) -> Ended:
        """Run the steps of the action until one fails."""
        inputs = defaults() | {name.replace("_", "-"): value for name, value in given.items()}
        files = {
            name: self.temporary / name for name in ("GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")
        }
        for file in files.values():
            file.write_text("")
        code, errors = 0, ""
        for environment, script in steps():
            values = {
                name: re.sub(r"\$\{\{ (\S+) \}\}", lambda found: self._value(found[1], inputs), value)
                for name, value in environment.items()
            }
            step = self.temporary / "step.sh"
            step.write_text(script)
            ended = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(step)],
                cwd=self.workspace,
                env={
                    "PATH": ":".join([*files["GITHUB_PATH"].read_text().split(), *self.path]),
                    "HOME": str(self.temporary),
                    "PYTHONPATH": str(ROOT),
                    "RUNNER_TEMP": str(self.temporary),
                    "WEIGHIN_DATA_DIR": str(self.temporary / "data"),
                    **{name: str(file) for name, file in files.items()},
                    **values,
                },
                check=False,
                capture_output=True,
                text=True,
            )
            code, errors = ended.returncode, errors + ended.stderr
            if code:
                break
        outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
        return Ended(code, outputs, files["GITHUB_STEP_SUMMARY"].read_text(), errors)

    @staticmethod
    def _value(expression: str, inputs: dict[str, str]) -> str:
        if expression == "github.action_path":
            return str(ROOT)
        return inputs[expression.removeprefix("inputs.")]


def defaults() -> dict[str, str]:
    """Return the default of each input of the action, for those that are not required."""
    block = ACTION[ACTION.index("inputs:\n") : ACTION.index("outputs:\n")]
    found = re.findall(r"^  ([\w-]+):\n(?:    description: .*\n)    default: (.*)$", block, re.MULTILINE)
    return {name: default.strip('"') for name, default in found}


def steps() -> list[tuple[dict[str, str], str]]:
    """Return the environment and the script of each step of the action."""
    parts = re.split(r"^    - name: .*\n", ACTION[ACTION.index("  steps:\n") :], flags=re.MULTILINE)[1:]
    result = []
    for part in parts:
        head, script = part.split("      run: |\n")
        environment = re.findall(r"^        (\w+): (.*)$", head, re.MULTILINE)
        result.append((dict(environment), textwrap.dedent(script)))
    return result


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    for name in ("workspace", "temporary"):
        (tmp_path / name).mkdir()
    shutil.copytree(FASHION, tmp_path / "workspace" / "base")
    return Runner(tmp_path / "workspace", tmp_path / "temporary")


@pytest.mark.slow
def test_identical_networks_pass(runner: Runner) -> None:
    shutil.copytree(FASHION, runner.workspace / "new")
    ended = runner.run(base="base", new="new", junit="gate.xml")
    assert (ended.code, ended.outputs) == (0, {"outcome": "pass", "exit-code": "0"}), ended.errors
    assert "identical" in ended.summary
    assert ElementTree.parse(runner.workspace / "gate.xml").getroot().find(".//skipped") is not None


def test_every_option_is_an_input() -> None:
    options = {
        option.removeprefix("--") for parameter in load_command("gate").params for option in parameter.opts
    }
    named = {
        name.lower().replace("_", "-")
        for name, _ in re.findall(r"^        (\w+): \$\{\{ inputs\.(\S+) \}\}$", ACTION, re.M)
    }
    assert len(options) >= 10
    assert named == options
    script = steps()[-1][1]
    assert all(f'--{option}="$' in script for option in options)


@pytest.mark.slow
def test_first_run_passes_and_says_so(runner: Runner) -> None:
    ended = runner.run(base="before/base", new="base")
    assert (ended.code, ended.outputs["outcome"]) == (0, "pass"), ended.errors
    assert "first run" in ended.summary


@pytest.mark.slow
@pytest.mark.parametrize("new", ["missing", '$(touch made1) a b; touch made2 "; touch made3; "'])
def test_missing_network_is_no_pass(runner: Runner, new: str) -> None:
    """Inputs are data: the shell runs nothing in them."""
    ended = runner.run(base="base", new=new)
    assert (ended.code, ended.outputs) == (2, {"outcome": "undecided", "exit-code": "2"})
    assert list(runner.workspace.glob("made*")) == []


def test_broken_program_is_no_pass(runner: Runner) -> None:
    """Whatever ends `weighin gate`, even a signal, is reported as exit code 2."""
    programs = runner.temporary / "programs"
    programs.mkdir()
    (programs / "weighin").write_text("#!/bin/sh\nkill -9 $$\n")
    (programs / "weighin").chmod(0o755)
    runner.path.insert(0, str(programs))
    ended = runner.run(base="base", new="base")
    assert (ended.code, ended.outputs["outcome"]) == (2, "undecided")


@pytest.mark.fault
@pytest.mark.alone
@pytest.mark.parametrize("channels", [0, 400])
def test_workflow_gates_two_networks(runner: Runner, channels: int) -> None:
    """The repository's workflow passes equal networks and fails one with far more work.

    The limit is far off, so that a machine that is not quiet decides this too.
    """
    before = runner.workspace / "before" / NETWORK
    shutil.copytree(ROOT / NETWORK, before)
    write_copy(ROOT / NETWORK, runner.workspace / NETWORK, channels)
    uses = re.search(r"uses: \./\n +with:\n((?: {10}.*\n)+)", WORKFLOW)
    assert uses is not None
    inputs = dict(re.findall(r"^ +([\w-]+): (.*)$", uses[1], re.MULTILINE))
    assert {*inputs} <= {"base", "new", *defaults()}
    ended = runner.run(**inputs | {"max-slower": "20%"})
    assert (ended.code, ended.outputs["outcome"]) == ((1, "fail") if channels else (0, "pass")), ended.errors
    assert "latency" in ended.summary.lower()
    failed = ElementTree.parse(runner.workspace / "gate.xml").getroot().findall(".//failure")
    assert bool(failed) == bool(channels)
