"""`weighin gate`: pass or fail a new network beside the one before it, by limits."""

from __future__ import annotations

import functools
import re
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn

from service.cli.output import (
    STANDARD_OUTPUT,
    JsonFile,
    LiteralConsole,
    check_target,
    say,
    stop_on_signals,
    write_document,
    write_json,
)
from service.cli.settings import settings_with
from service.errors import InvalidParameter, WeighinError, error_words
from service.gate.decision import Limits
from service.gate.outputs import append_whole, to_junit, to_markdown
from service.gate.result import EXIT_CODES, GateResult
from service.gate.run import Gate, Request
from service.inference.cpu import core_budget
from service.inference.registry import Registry
from service.settings import Settings, step_summary
from service.text.display import shown

CANNOT_SAY = EXIT_CODES["undecided"]
_SUMMARY = "GITHUB_STEP_SUMMARY"
_UNITS_S = {"s": 1, "min": 60, "h": 3600}
_MOST_S = 86_400


def gate(
    base: Annotated[
        str, typer.Option(help="The network before: a name in the zoo, a folder with a card, or an ONNX file")
    ],
    new: Annotated[str, typer.Option(help="The network that is to replace it, of the same task and classes")],
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
        str, typer.Option(metavar="TIME", help="Longest time to decide in, such as 90s, 5min, 1h")
    ] = "5min",
    mapping: Annotated[
        Path | None, typer.Option(help="File with lines CLASS = LABEL, for classes whose names are no labels")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder in which the paths of a CSV, COCO or VOC file begin")
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write JUnit XML")] = None,
    json_file: JsonFile = None,
) -> None:
    """Pass or fail a new network beside the one before it, for CI: latency and accuracy within limits.

    Exit code 0: both limits are kept (or there is no base yet, or nothing differs, which is said). 1: a limit
    is broken. 2: cannot say, with what a decision would take; also for bad input and interruptions. Appends a
    table to the file in GITHUB_STEP_SUMMARY, where that is set.
    """
    try:
        request = Request(
            base=base,
            new=new,
            data=data,
            mapping=mapping,
            images=images,
            limits=Limits(
                _number(max_slower, "--max-slower", "%", "3%", 1000) / 100,
                _number(max_loss, "--max-loss", "pt", "0.5pt", 100) / 100,
            ),
            time_limit_s=_seconds(time_limit),
        )
        code = _gate(request, junit, json_file, step_summary())
    except typer.Exit:  # of wrong settings
        raise
    except WeighinError as error:
        code = _cannot_say(error.detail)
    except KeyboardInterrupt:
        code = _cannot_say("interrupted")
    except Exception as error:  # whatever went wrong, it is no pass and no broken limit
        traceback.print_exc()
        code = _cannot_say(f"unexpected {type(error).__name__}")
    if code:
        raise typer.Exit(code)


def _gate(request: Request, junit: Path | None, json_file: Path | None, summary: Path | None) -> int:
    """Run the gate, write its outputs, and return the exit code."""
    read = [Path(request.base), Path(request.new), request.data, request.mapping]
    inputs = [path for path in read if path is not None]
    targets = (("--junit", junit), ("--json", json_file), (_SUMMARY, summary))
    _check_targets([(option, path) for option, path in targets if path is not None], inputs)
    settings = settings_with()
    with stop_on_signals() as (stop, _):
        result = _run(request, settings, stop)
    written = [
        _written(lambda: None if junit is None else write_document(junit, to_junit(result), "--junit")),
        _written(lambda: None if json_file is None else write_json(json_file, result)),
        _written(lambda: None if summary is None else _summarise(summary, result)),
    ]
    to_error = STANDARD_OUTPUT in (junit, json_file)
    _print(result, to_error=to_error)
    if result.outcome == "pass" and not all(written):
        say("cannot say: it would pass, but not every report could be written", error=to_error)
        return CANNOT_SAY
    say(result.sentence, error=to_error)
    return result.exit_code


def _check_targets(targets: list[tuple[str, Path]], inputs: list[Path]) -> None:
    """Raise InvalidParameter unless every output can be written, each to a file of its own."""
    seen: dict[Path, str] = {}
    for option, path in targets:
        check_target(path, option, inputs)
        if (other := seen.setdefault(path.absolute(), option)) != option:
            raise InvalidParameter(f"{option} {path}: is the file of {other} too (allowed: a file for each)")


def _run(request: Request, settings: Settings, stop: threading.Event) -> GateResult:
    """Run the gate with a progress display on standard error."""

    @functools.cache
    def registry() -> Registry:
        return Registry(
            settings.model_dirs,
            settings.default_model,
            default_detector=settings.default_detector,
            added=settings.added_models,
        )

    console = LiteralConsole(stderr=True)
    display = Progress(
        BarColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        refresh_per_second=2,  # low, because a refresh uses a core that is being measured
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
    """Print what is assumed, and each check."""
    for role, model in (("base", result.base), ("new", result.new)):
        for note in () if model is None else model.notes:
            say(f"{role}: {note}", error=True)
    for note in result.notes:
        say(note, error=True)
    for check in result.checks:
        say(f"{check.name}: {check.status}: {check.sentence}", error=to_error)


def _summarise(path: Path, result: GateResult) -> None:
    try:
        append_whole(path, to_markdown(result))
    except OSError as error:
        raise InvalidParameter(f"{_SUMMARY} {path}: cannot be written: {error_words(error)}") from None


def _written(write: Callable[[], None]) -> bool:
    """Write an output; return whether that worked, or say why it did not."""
    try:
        write()
    except InvalidParameter as error:
        say(f"weighin: {error}", error=True)
        return False
    return True


def _cannot_say(reason: str) -> int:
    say(f"cannot say: {reason}", error=True)
    return CANNOT_SAY


def _number(text: str, option: str, unit: str, example: str, most: float) -> float:
    """Return the number before the unit of a limit. Raises InvalidParameter."""
    match = re.fullmatch(rf"(\d+(?:\.\d+)?) ?{re.escape(unit)}", text.strip(), re.ASCII)
    if match is None or not float(match[1]) <= most:
        raise InvalidParameter(
            f"{option} '{shown(text[:50])}': not a limit (allowed: 0{unit} to {most:g}{unit}, e.g. {example})"
        )
    return float(match[1])


def _seconds(text: str) -> float:
    """Return the seconds of `--time-limit`. Raises InvalidParameter."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h)", text.strip(), re.ASCII)
    seconds = 0.0 if match is None else float(match[1]) * _UNITS_S[match[2]]
    if not 0 < seconds <= _MOST_S:
        raise InvalidParameter(
            f"--time-limit '{shown(text[:50])}': not a time (allowed: above 0s to 24h, e.g. 90s, 5min, 1h)"
        )
    return seconds
