"""`weighin gate`: compare a new network with the old one, and pass it only if it keeps the limits."""

from __future__ import annotations

import functools
import os
import re
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn

from models.zoo.display import shown
from service.cli.gate.decision import Limits
from service.cli.gate.inputs import Inputs
from service.cli.gate.outputs import append_whole, to_junit, to_markdown
from service.cli.gate.result import EXIT_CODES, GateResult, not_begun, nothing_asked, unreported
from service.cli.gate.run import Gate, Request
from service.cli.output import (
    STANDARD_OUTPUT,
    JsonFile,
    LiteralConsole,
    UnbreakableStream,
    check_target,
    say,
    stop_on_signals,
    unbreakable_output,
    write_document,
    write_json,
)
from service.cli.settings import settings_with
from service.errors import InvalidParameter, WeighinError, error_words
from service.inference.cpu import core_budget
from service.inference.registry import Registry
from service.settings import Settings, step_summary

CANNOT_SAY = EXIT_CODES["undecided"]
_JSON, _JUNIT = "--json", "--junit"
_SUMMARY = "GITHUB_STEP_SUMMARY"
_UNITS_S = {"s": 1, "min": 60, "h": 3600}
_MOST_S = 86_400


def gate(
    base: Annotated[
        str, typer.Option(help="The old network: a name in the zoo, a folder with a card, or an ONNX file")
    ],
    new: Annotated[str, typer.Option(help="The network that is to replace --base; same task and classes")],
    data: Annotated[
        Path | None,
        typer.Option(help="Labelled pictures, as for `weighin evaluate` [default: accuracy is not compared]"),
    ] = None,
    max_slower: Annotated[
        str, typer.Option(metavar="PERCENT", help="Largest slowdown that passes, such as 3%")
    ] = "3%",
    max_loss: Annotated[
        str, typer.Option(metavar="POINTS", help="Largest loss of accuracy that passes, such as 0.5pt")
    ] = "0.5pt",
    time_limit: Annotated[
        str, typer.Option(metavar="TIME", help="Longest time for a decision, such as 90s, 5min, 1h")
    ] = "5min",
    mapping: Annotated[
        Path | None, typer.Option(help="File with lines CLASS = LABEL for classes whose names are not labels")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder in which the paths of a CSV, COCO or VOC file begin")
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write JUnit XML")] = None,
    json_file: JsonFile = None,
) -> None:
    """Pass or fail a new network, compared with the old one: latency and accuracy within limits, for CI.

    Exit code 0: both limits are kept; or nothing was compared, because there is no base yet or the networks
    do not differ. Exit code 1: a limit is broken. Exit code 2: undecided, bad input, or interrupted. The
    output gives the reason; if undecided, also how to reach a decision. If GITHUB_STEP_SUMMARY is set, a
    table is appended to the file that it names.
    """
    outputs = _Outputs(junit, json_file, step_summary())
    with unbreakable_output() as standard_output:
        code = _gate(
            Inputs(base=base, new=new, data=data, mapping=mapping, images=images),
            lambda: (
                Limits(
                    _number(max_slower, "--max-slower", "%", "3%", 1000) / 100,
                    _number(max_loss, "--max-loss", "pt", "0.5pt", 100) / 100,
                ),
                _seconds(time_limit),
            ),
            outputs,
            standard_output,
        )
    if code:
        raise typer.Exit(code)


def _gate(
    inputs: Inputs,
    limits: Callable[[], tuple[Limits, float]],
    outputs: _Outputs,
    standard_output: UnbreakableStream,
) -> int:
    """Run the gate, report the result, and return the exit code.

    After an unexpected error, the exit code is never 0, and it is 1 only if the gate has found a broken
    limit. `limits`: returns the limits and the time limit in seconds, or raises InvalidParameter.
    """
    code: int = CANNOT_SAY
    try:
        result = _result(inputs, limits, outputs)
        code = result.exit_code or CANNOT_SAY  # a pass counts only after it is reported
        code = outputs.report(result, standard_output)
    except typer.Exit as error:  # the settings are invalid
        code = error.exit_code
    except KeyboardInterrupt:
        say("interrupted", error=True)
    except Exception:
        traceback.print_exc()
    return code


def _result(inputs: Inputs, limits: Callable[[], tuple[Limits, float]], outputs: _Outputs) -> GateResult:
    """Run the gate and return its result. If the gate cannot run, return a result that says why."""
    settings = settings_with()

    @functools.cache
    def registry() -> Registry:
        return Registry(
            settings.model_dirs,
            settings.default_model,
            default_detector=settings.default_detector,
            added=settings.added_models,
        )

    try:
        outputs.check(inputs, registry)
        kept, time_limit_s = limits()
        if inputs.data is None and (inputs.mapping or inputs.images) is not None:
            raise InvalidParameter("--mapping and --images: only with --data")
        with stop_on_signals() as (stop, _):
            request = Request(**vars(inputs), limits=kept, time_limit_s=time_limit_s)
            return _run(request, registry, settings, stop)
    except WeighinError as error:
        return not_begun(error.detail)
    except KeyboardInterrupt:
        return not_begun("interrupted")
    except Exception as error:  # also unexpected errors become a result
        traceback.print_exc()
        return not_begun(f"unexpected {type(error).__name__}")


class _Outputs:
    """The files that the gate writes."""

    def __init__(self, junit: Path | None, json_file: Path | None, summary: Path | None) -> None:
        given = ((_JSON, json_file), (_JUNIT, junit), (_SUMMARY, summary))
        files = [(option, path) for option, path in given if path is not None]
        # standard output is last, because it cannot be written again
        self._given = sorted(files, key=lambda file: file[1] == STANDARD_OUTPUT)
        self._usable: list[tuple[str, Path]] = []
        self._to_error = any(path == STANDARD_OUTPUT for _, path in files)

    def check(self, inputs: Inputs, registry: Callable[[], Registry]) -> None:
        """Raise InvalidParameter unless every output can be written, and each has a file of its own.

        If some outputs cannot be written, `report` still writes the error to the others.
        """
        problems: list[InvalidParameter] = []
        for option, path in self._given:
            try:
                self._check(option, path)
                try:
                    inputs.check_output(option, path, registry)
                except OSError as error:
                    raise InvalidParameter(f"{option} {path}: {error_words(error)}") from None
            except InvalidParameter as error:
                problems.append(error)
            else:
                self._usable.append((option, path))
        if problems:
            raise problems[0]

    def _check(self, option: str, path: Path) -> None:
        if option == _SUMMARY and path.is_file():
            try:
                # the file is appended to, not replaced, so its folder need not be writable
                os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
            except OSError as error:
                raise InvalidParameter(f"{option} {path}: cannot be written: {error_words(error)}") from None
        else:
            check_target(path, option)
        for other, taken in self._usable:
            if os.path.realpath(taken) == os.path.realpath(path) or _same_file(taken, path):
                raise InvalidParameter(
                    f"{option} {path}: is the file of {other} too (allowed: a file for each)"
                )

    def report(self, result: GateResult, standard_output: UnbreakableStream) -> int:
        """Write and print the result, and return the exit code.

        If the gate passes, but the result cannot be written to every output, the outcome becomes undecided.
        The outputs that were already written are then written again with this outcome.
        """
        _print(result, to_error=self._to_error)
        for number, output in enumerate(self._usable):
            if not _written(*output, result) and result.outcome == "pass":
                result = unreported(result)
                self._rewrite(number, result)
        say(result.sentence, error=self._to_error or result.limits is None)
        if standard_output.error is not None:
            words = error_words(standard_output.error)
            say(f"weighin: standard output: cannot be written: {words}", error=True)
            if result.outcome == "pass":
                result = unreported(result)
                self._rewrite(len(self._usable), result)
                say(result.sentence, error=True)
        return result.exit_code

    def _rewrite(self, count: int, result: GateResult) -> None:
        """Write the first `count` outputs again, except standard output."""
        for option, path in self._usable[:count]:
            if path != STANDARD_OUTPUT:
                _written(option, path, result)


def _run(
    request: Request, registry: Callable[[], Registry], settings: Settings, stop: threading.Event
) -> GateResult:
    """Run the gate with a progress display on standard error."""
    console = LiteralConsole(stderr=True)
    display = Progress(
        BarColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        refresh_per_second=2,  # low, because a refresh takes time of a core that is being measured
    )
    with display:
        task = display.add_task("", total=1.0)
        return Gate(
            request,
            registry,
            threads=settings.threads or core_budget(),
            max_pixels=settings.max_pixels,
            stop=stop,
            show=lambda doing, done: display.update(task, description=shown(doing), completed=done),
        ).run()


def _print(result: GateResult, *, to_error: bool) -> None:
    """Print the notes on both models, the notes of the result, and each check."""
    for role, model in (("base", result.base), ("new", result.new)):
        for note in () if model is None else model.notes:
            say(f"{role}: {note}", error=True)
    for note in result.notes:
        say(note, error=True)
    if result.limits is not None and not nothing_asked(result):  # otherwise the outcome alone suffices
        for check in result.checks:
            say(f"{check.name}: {check.status}: {check.sentence}", error=to_error)


def _written(option: str, path: Path, result: GateResult) -> bool:
    """Write an output and return True. If it cannot be written, print why and return False."""
    try:
        if option == _JSON:
            write_json(path, result)
        elif option == _JUNIT:
            write_document(path, to_junit(result), option)
        else:
            append_whole(path, to_markdown(result))
    except (InvalidParameter, OSError) as error:
        words = (
            f"{option} {path}: cannot be written: {error_words(error)}"
            if isinstance(error, OSError)
            else error
        )
        say(f"weighin: {words}", error=True)
        return False
    return True


def _same_file(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def _number(text: str, option: str, unit: str, example: str, most: float) -> float:
    """Parse a limit such as "3%" and return its number. Raises InvalidParameter."""
    match = re.fullmatch(rf"(\d+(?:\.\d+)?) ?{re.escape(unit)}", text.strip(), re.ASCII)
    if match is None or not float(match[1]) <= most:
        raise InvalidParameter(
            f"{option} '{shown(text[:50])}': not a limit (allowed: 0{unit} to {most:g}{unit}, e.g. {example})"
        )
    return float(match[1])


def _seconds(text: str) -> float:
    """Return the time of `--time-limit` in seconds. Raises InvalidParameter."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h)", text.strip(), re.ASCII)
    seconds = 0.0 if match is None else float(match[1]) * _UNITS_S[match[2]]
    if not 0 < seconds <= _MOST_S:
        raise InvalidParameter(
            f"--time-limit '{shown(text[:50])}': not a time (allowed: above 0s to 24h, e.g. 90s, 5min, 1h)"
        )
    return seconds
