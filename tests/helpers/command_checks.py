"""Check a call of a program, as a document shows it, with the program's own parser: nothing runs."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import importlib.util
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, get_args
from urllib.parse import parse_qsl, urlsplit

import pytest
import typer
import yaml
from typer.core import TyperCommand
from typer.main import get_command

import models.cli
import service.cli
from models.zoo.files import NETWORKS
from service.bench.bundle import RuntimeName, Scenario
from service.bench.measure.plan import PROFILES
from service.own_models.sources.presets import PRESETS
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
COMPOSE = (ROOT / "compose.yaml").read_text()
OTHER_PROGRAMS = ("base64", "jq", "file", "cut", "grep", "sort", "uniq", "cmp", "cp", "mkdir", "tail", "tee")
"""Programs of the system: recorded like the others, so that they do nothing, and not checked."""
FOREIGN_MODULES = {"tf2onnx.convert"}
"""Modules of other projects that a reader runs to export a model."""
RAY_COMMANDS = {
    ("ray", "get-auth-token"): "--generate",
    ("ray", "start"): r"--head|--address \S+:\d+",
    ("ray", "stop"): "",
    ("serve", "deploy"): r"\S+\.yaml",
    ("serve", "status"): "",
    ("serve", "shutdown"): "",
}
"""Arguments of Ray's commands that documents use."""
VALUES = {
    "--profile": set(PROFILES),
    "--scenario": set(get_args(Scenario)),
    "--runtime": set(get_args(RuntimeName)),
    "--preset": set(PRESETS),
    "--models": {folder.name for folder in NETWORKS.iterdir()},
}
"""Values of options of `weighin` that its command line parser leaves to the command."""


class WrongCommand(Exception):
    """A program would refuse this call, or there is no check for it."""


@dataclass(frozen=True)
class Call:
    """A call of a program: its name without folder, its arguments, and variables set for it alone."""

    program: str
    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    partial: bool = False
    """Required arguments may be missing, as in `weighin add` in a sentence."""


def check(call: Call, paths: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise WrongCommand unless the call's program would accept its arguments and variables.

    `paths`: of the OpenAPI document, with the schemas of request bodies in place of references.
    """
    match call.program:
        case "weighin":
            _check_settings(call.variables, monkeypatch)
            _check_typer(service.cli.app, call, monkeypatch)
        case "make":
            _check_make(call)
        case "docker":
            _check_docker(call)
        case "ray" | "serve":  # of Ray, which is installed for `make test-ray` only
            _check_settings(call.variables, monkeypatch)
            known = RAY_COMMANDS.get((call.program, call.arguments[0]), r"[^\s\S]")
            _require(re.fullmatch(known, " ".join(call.arguments[1:])) is not None, call, "unknown arguments")
            files = [argument for argument in call.arguments if argument.endswith(".yaml")]
            _require(all((ROOT / file).is_file() for file in files), call, "no such file")
        case _ if call.variables:
            raise WrongCommand(f"{call}: no check for variables of this program")
        case "nohup":
            check(Call(Path(call.arguments[0]).name, call.arguments[1:]), paths, monkeypatch)
        case "models":  # the alias of docs/training.md, in a sentence
            _check_typer(models.cli.app, call, monkeypatch)
        case "python":
            _check_python(call, monkeypatch)
        case "curl":
            _check_curl(call, paths)
        case "kubectl":
            _check_kubectl(call)
        case "pip":
            _require(call.arguments[0] == "install" and len(call.arguments) > 1, call, "not an installation")
        case "pre-commit":
            _require(call.arguments == ("install",), call, "unknown command")
        case program:
            _require(program in OTHER_PROGRAMS, call, "no check for this program")


def _require(condition: bool, call: Call, problem: str) -> None:
    if not condition:
        raise WrongCommand(f"{' '.join((call.program, *call.arguments))}: {problem}")


def _require_known(given: Iterable[str], known: Iterable[str], call: Call, what: str) -> None:
    unknown = set(given) - set(known)
    _require(not unknown, call, f"unknown {what}: {', '.join(sorted(unknown))}")


def _check_settings(variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Require that every variable is a setting and has a valid value."""
    for name in variables:
        if name.removeprefix("WEIGHIN_").lower() not in Settings.model_fields:
            raise WrongCommand(f"{name}: not a setting")
    with monkeypatch.context() as patch:
        for name, text in variables.items():
            patch.setenv(name, text)
        try:
            Settings()
        except ValueError as error:
            raise WrongCommand(str(error)) from None


@functools.cache
def _command_of(app: typer.Typer) -> Any:
    """Return the parser of a command line, which takes longer to make than to use."""
    return get_command(app)


def _check_typer(app: typer.Typer, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line parse the arguments; no callback runs, neither a command's nor a group's."""

    def parse_only(_context: Any, _callback: Any, **_parameters: Any) -> None:
        """Do nothing in place of the callback."""

    with monkeypatch.context() as patch:
        patch.setattr(TyperCommand.context_class, "invoke", parse_only)
        try:
            _command_of(app)(list(call.arguments), standalone_mode=False)
        except typer.TyperException as error:
            incomplete = type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError", "BadOptionUsage")
            incomplete = incomplete or "Missing command" in str(error)
            _require(call.partial and incomplete, call, str(error) or type(error).__name__)
    if app is service.cli.app:
        for option, text in pairwise(call.arguments):
            _require_known(text.split(",") if option in VALUES else (), VALUES.get(option, ()), call, option)


def _check_python(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Require an existing module whose parser accepts the arguments, or code with existing imports."""
    _require(call.arguments[0] in ("-m", "-c"), call, "neither -m nor -c")
    kind, target, *arguments = call.arguments
    if kind == "-c":
        _check_imports(call, target)
    elif target == "models":
        partial = call.partial or not arguments
        _check_typer(models.cli.app, Call("models", tuple(arguments), partial=partial), monkeypatch)
    elif target not in FOREIGN_MODULES:
        name = f"{target}.__main__" if _path_of(target).is_dir() else target
        takes_arguments = "import argparse" in _source_of(name)
        _require(takes_arguments or not arguments, call, "the module takes no arguments")
        if arguments or (takes_arguments and not call.partial):
            _check_argparse(call, name, arguments, monkeypatch)


def _path_of(name: str) -> Path:
    return ROOT / name.replace(".", "/")


def _source_of(name: str) -> str:
    """Return the text of a module of this project, without importing it: it may need torch."""
    path = _path_of(name)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.is_file():
        raise WrongCommand(f"{name}: no such module")
    return path.read_text()


def _check_imports(call: Call, code: str) -> None:
    """Require that the code compiles, and that modules which it imports exist and have the names."""
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        raise WrongCommand(f"{code}: {error}") from None
    for node in ast.walk(tree):
        imported: dict[str, list[str]] = {}
        if isinstance(node, ast.Import):
            imported = {alias.name: [] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported = {str(node.module): [alias.name for alias in node.names]}
        for name, members in imported.items():
            package = name.partition(".")[0]
            if package not in ("benchmarks", "models", "service", "tests"):
                _require(importlib.util.find_spec(package) is not None, call, f"no package {package}")
                continue
            source = _source_of(name)
            for member in members:
                defined = re.search(rf"^(def |class )?{member}\b", source, re.MULTILINE)
                _require(defined is not None, call, f"{name} has no {member}")


class _Parsed(Exception):
    """The arguments were accepted."""


def _check_argparse(call: Call, name: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the module's `main` up to the end of its parsing."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, *given: Any) -> None:
        parse(parser, *given)
        raise _Parsed

    module = importlib.import_module(name)
    with monkeypatch.context() as patch:
        patch.setattr("sys.argv", [name, *arguments])
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        try:
            module.main()
        except _Parsed:
            return
        except SystemExit:
            raise WrongCommand(f"{call}: refused by {name}") from None
    raise WrongCommand(f"{call}: {name} parses no arguments")


def _check_make(call: Call) -> None:
    """Require that the targets exist, and that the Makefile or the service reads the variables."""
    targets = {
        target
        for names in re.findall(r"^([\w./ -]+):(?!=)", MAKEFILE, re.MULTILINE)
        for target in names.split()
    }
    assigned = [word.partition("=")[0] for word in call.arguments if "=" in word]
    settings = {f"WEIGHIN_{name.upper()}" for name in Settings.model_fields}
    read = set(re.findall(r"\$\((\w+)\)", MAKEFILE)) | settings
    _require_known([*assigned, *call.variables], read, call, "variable")
    _require_known([word for word in call.arguments if "=" not in word], targets, call, "target")


def _check_docker(call: Call) -> None:
    """Require that `docker compose` names profiles, services and variables of compose.yaml."""
    listed = COMPOSE.split("\nservices:")[1].split("\nvolumes:")[0]
    services = re.findall(r"^  (\w+):", listed, re.MULTILINE)
    if call.partial and call.arguments == ("--env-file",):
        return
    parser = _Parser(prog="docker")
    compose = parser.add_subparsers(required=True).add_parser("compose")
    compose.add_argument("--profile", choices=re.findall(r"profiles: \[(\w+)\]", listed))
    compose.add_argument("action", choices=("up", "down", "build", "logs"))
    compose.add_argument("services", nargs="*")
    named = parser.parse_args(call.arguments)
    _require_known(named.services, services, call, "service")
    _require_known(call.variables, re.findall(r"\$\{(\w+)", COMPOSE), call, "variable")


def _check_kubectl(call: Call) -> None:
    """Require that `kubectl` names an existing folder and Deployment, and the Secret that the pods read."""
    parser = _Parser(prog="kubectl", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=not call.partial)
    arguments = {
        "create": ("kind", "names"),
        "label": ("kind", "names"),
        "rollout": ("kind", "names"),
        "apply": (),
    }
    for name, positional in arguments.items():
        command = commands.add_parser(name, allow_abbrev=False)
        command.add_argument("-n")
        for argument in positional:
            command.add_argument(argument, nargs=None if argument == "kind" else "+")
    partial: dict[str, Any] = {"nargs": "?"} if call.partial else {"required": True}
    commands.choices["apply"].add_argument("-k", **partial)
    commands.choices["create"].add_argument("--from-literal", action="append", default=[])
    named = parser.parse_args(call.arguments)
    deployment = yaml.safe_load((ROOT / "docker/kubernetes/deployment.yaml").read_text())
    match named.command:
        case "apply" if named.k is not None:
            _require((ROOT / named.k / "kustomization.yaml").is_file(), call, "not a kustomization")
        case "create" if named.kind == "secret":
            variables = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
            secrets = [entry["valueFrom"]["secretKeyRef"] for entry in variables if "valueFrom" in entry]
            _require_known(named.names, {"generic", *(secret["name"] for secret in secrets)}, call, "secret")
            keys = [literal.partition("=")[0] for literal in named.from_literal]
            _require_known(keys, [secret["key"] for secret in secrets], call, "key")
        case "rollout":
            _require_known([named.kind], ("status", "restart"), call, "action")
            _require_known(named.names, [f"deployment/{deployment['metadata']['name']}"], call, "target")


class _Parser(argparse.ArgumentParser):
    """A parser that raises WrongCommand."""

    def error(self, message: str) -> NoReturn:
        raise WrongCommand(f"{self.prog}: {message}")


def _check_curl(call: Call, paths: dict[str, Any]) -> None:
    """Require that path, method, query, form fields and JSON members are in the OpenAPI document."""
    parser = _Parser(prog="curl", allow_abbrev=False)
    for flag in ("-s", "-N"):
        parser.add_argument(flag, action="store_true")
    for option in ("-o", "-w", "-X", "--json", "--data-binary"):
        parser.add_argument(option, nargs="?" if call.partial else None)
    for option in ("-H", "-F", "--url-query"):
        parser.add_argument(option, action="append", default=[])
    parser.add_argument("url", nargs="?" if call.partial else None)
    named = parser.parse_args(call.arguments)
    if named.url is None:
        return
    url = urlsplit(named.url if "://" in named.url else f"http://{named.url}")
    _require_known([url.netloc], ("localhost:8000", "127.0.0.1:8000"), call, "server")
    body = named.F or named.json or named.data_binary
    method = (named.X or ("post" if body else "get")).lower()
    operations = paths.get(template_of(url.path, paths), {})
    _require_known([method], operations, call, f"route {url.path}")
    query = [pair.partition("=")[0] for pair in named.url_query] + [name for name, _ in parse_qsl(url.query)]
    parameters = [parameter["name"] for parameter in operations[method].get("parameters", [])]
    _require_known(query, parameters, call, "parameter")
    content = operations[method]["requestBody"].get("content", {})
    if named.F:
        form = content["multipart/form-data"]["schema"]
        _require_known([pair.partition("=")[0] for pair in named.F], form["properties"], call, "form field")
    if named.json:
        schema = content["application/json"]["schema"]
        properties = [option.get("properties", {}) for option in (schema, *schema.get("anyOf", []))]
        _require_known(json.loads(named.json), set[str]().union(*properties), call, "member")


def template_of(path: str, paths: dict[str, Any]) -> str:
    """Return the path template of the API that `path` matches; `path` itself if none does."""
    for template in paths:
        if path not in paths and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            return template
    return path
