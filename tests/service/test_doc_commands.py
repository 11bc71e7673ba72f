"""Every command in the documentation is valid: program, subcommands, options, values, routes, targets.

bash itself parses the code blocks (`sh`: every line, `console`: lines that begin with `$ `). It runs them in
a folder where every program is replaced by a recorder, so nothing happens, but substitutions, loops, aliases
and variables work. Each recorded call is then checked by the program's own parser.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command_checks import OTHER_PROGRAMS, ROOT, Call, WrongCommand, check

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
RECORDED = ("weighin", "make", "python", "pip", "docker", "curl", "kubectl", "nohup", "pre-commit")
FENCES = {"console", "sh", "json", "nginx", "text", "yaml", "python"}
"""The Python of docs/v2.md is run by tests/service/api/v2/test_triton_client.py."""


def blocks_of(page: Path) -> Iterator[tuple[str, str]]:
    """Yield language and text of each fenced block."""
    text = page.read_text()
    assert text.count("```") % 2 == 0
    yield from re.findall(r"^ *```([^\n`]*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


def script_of(page: Path) -> str:
    """Return the commands of all blocks as one script: a block may use variables of an earlier one."""
    commands = []
    for language, text in blocks_of(page):
        lines = [line.strip() for line in text.splitlines()]
        if language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            assert lines, f"a console block without `$ `: {text}"
        if language in ("console", "sh"):
            commands += lines
    return "\n".join(commands)


WITH_BLOCKS = [page for page in PAGES if script_of(page)]


def spans_of(page: Path) -> list[str]:
    """Return the commands that sentences and tables name: code spans that begin with a program."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    start = r"(?:\.venv(?:-\w+)?/bin/)?(?:weighin|make|python|pip|docker|curl|kubectl|models|pre-commit)"
    return re.findall(rf"`({start} [^`\n]+)`", text)


SPANS = sorted({span for page in PAGES for span in spans_of(page)})


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """Return a folder with the recorders, in `bin` and `.venv*/bin`, and the file `id` of docs/api.md."""
    program = tmp_path / "bin" / RECORDED[0]
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\nprintf '%s\\0' \"$0\" \"$@\" >'{tmp_path}/calls/'$$\n"
        "while read -r _; do :; done\n"  # a pipe's writer gets no SIGPIPE
        f"{shutil.which('env')} -0 >'{tmp_path}/calls/'$$.env\necho output\n"
    )
    program.chmod(0o755)
    for name in (*RECORDED[1:], "ray", "serve", *OTHER_PROGRAMS):
        (tmp_path / "bin" / name).symlink_to(program)
    for environment in (".venv", ".venv-models", ".venv-ray"):
        (tmp_path / environment).mkdir()
        (tmp_path / environment / "bin").symlink_to(tmp_path / "bin")
    (tmp_path / "calls").mkdir()
    (tmp_path / "id").write_text("output")
    return tmp_path


def calls_of(script: str, folder: Path) -> list[Call]:
    """Run the script with bash in the folder of the fixture `recorder`; return the calls.

    Raises WrongCommand if bash fails, e.g. because of an unknown program or an unset variable.
    """
    base = {"PATH": str(folder / "bin"), "PWD": str(folder)}
    preamble = "set -euo pipefail\nshopt -s expand_aliases\nWEIGHIN_API_KEY=sesame\n"
    bash = shutil.which("bash")
    assert bash is not None
    (folder / "script").write_text(f"{preamble}{script}\nwait\n")
    done = subprocess.run(
        [bash, "script"],
        env=base,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise WrongCommand(f"exit code {done.returncode}: {done.stderr}")
    calls = []
    for recorded in (folder / "calls").glob("[0-9]*[0-9]"):
        program, *arguments = recorded.read_text().split("\0")[:-1]
        variables = dict(
            entry.split("=", 1) for entry in recorded.with_suffix(".env").read_text().split("\0")[:-1]
        )
        own = {name: text for name, text in variables.items() if name not in (*base, "SHLVL", "_", "OLDPWD")}
        calls.append(Call(Path(program).name, tuple(arguments), own))
    return calls


@pytest.fixture(scope="module")
def paths(openapi: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of every path, with the request bodies' schemas put in."""

    def resolved(node: Any) -> Any:
        if isinstance(node, list):
            return [resolved(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return openapi["components"]["schemas"][node["$ref"].rpartition("/")[2]]
        return {key: resolved(value) for key, value in node.items()}

    found: dict[str, Any] = {
        path: {
            method: operation | {"requestBody": resolved(operation.get("requestBody", {}))}
            for method, operation in operations.items()
        }
        for path, operations in openapi["paths"].items()
    }
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_name_their_language(page: Path) -> None:
    """Without a language, a block's commands would not be checked."""
    assert {language for language, _ in blocks_of(page)} <= FENCES


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.name)
def test_commands_in_blocks(
    page: Path, recorder: Path, paths: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_of(script_of(page), recorder)
    assert calls
    for call in calls:
        check(call, paths, monkeypatch)


@pytest.mark.parametrize("span", SPANS)
def test_commands_in_sentences(span: str, paths: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(re.sub(r"[][]|=$", "", span))
    check(Call(Path(program).name, tuple(arguments), partial=True), paths, monkeypatch)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("weighin weigh", "No such command"),
        ("weighin bench --profil quick", "No such option"),
        ("weighin bench --profile long", "unknown --profile: long"),
        ("weighin bench --rounds many", "valid integer"),
        ("weighin bench --models efficientnet-lite0,resnet", "unknown --models: resnet"),
        ("weighin add", "Missing"),
        ("weighin gallery lose", "No such command"),
        ("WEIGHIN_PROT=1 weighin serve", "WEIGHIN_PROT: not a setting"),
        ("WEIGHIN_PORT=http weighin serve", "valid integer"),
        ("make tset", "unknown target: tset"),
        ("make fuzz FUZZ_INPUT=1", "unknown variable: FUZZ_INPUT"),
        ("python -m models trian all", "No such command"),
        ("alias models='python -m models'\nmodels train --nepochs 3 all", "No such option"),
        ("python -m tests.fuzz --inputs many", "refused by tests.fuzz.__main__"),
        ("python -m tests.fuzzing", "tests.fuzzing: no such module"),
        ("python -m benchmarks.decode_process --count 3", "takes no arguments"),
        ("python -c 'from models.architectures.fashion import MODELS'", "has no MODELS"),
        ("python -c 'import models.zoos'", "models.zoos: no such module"),
        ("python -c 'print('", "was never closed"),
        ("python serve.py", "neither -m nor -c"),
        ("PORT=1 python -m benchmarks.pages", "no check for variables"),
        ("pip remove pillow", "not an installation"),
        ("docker compose up gallery", "unknown service: gallery"),
        ("docker compose --profile postgresql up", "invalid choice"),
        ("REPLICA_PORT=1 docker compose up", "unknown variable: REPLICA_PORT"),
        ("docker run weighin", "invalid choice"),
        ("curl localhost:8000/clasify", "unknown route /clasify"),
        ("curl -F image=@cat.jpg 'localhost:8000/classify?topk=2'", "unknown parameter: topk"),
        ("curl -F picture=@cat.jpg localhost:8000/classify", "unknown form field: picture"),
        ("""curl --json '{"profil":"quick"}' localhost:8000/benchmarks""", "unknown member: profil"),
        ("curl -X PATCH localhost:8000/models/net", "unknown route /models/net: patch"),
        ("curl --url-query 'were={}' localhost:8000/gallery/images", "unknown parameter: were"),
        ("curl localhost:8080/healthz", "unknown server: localhost:8080"),
        ("curl --silence localhost:8000/healthz", "unrecognized arguments"),
        ("kubectl apply -k docker", "not a kustomization"),
        ("kubectl apply", "required: -k"),
        ("kubectl create secret generic weighin --from-literal=url=x", "unknown key: url"),
        ("kubectl create secret generic database --from-literal=api-key=x", "unknown secret: database"),
        ("kubectl rollout status deployment/weigh-in", "unknown target: deployment/weigh-in"),
        ("kubectl get pods", "invalid choice"),
        ("nohup make tset &", "unknown target: tset"),
        ("make test | echo $(make tset)", "unknown target: tset"),
        ("weighing serve", "weighing: command not found"),
        ("if true; then make test", "syntax error"),
        ("make $TARGET", "TARGET: unbound variable"),
    ],
)
def test_wrong_commands_fail(
    script: str, problem: str, recorder: Path, paths: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_all() -> None:
        for call in calls_of(script, recorder):
            check(call, paths, monkeypatch)

    with pytest.raises(WrongCommand, match=re.escape(problem)):
        check_all()
