"""`weighin report`: write a benchmark, with an evaluation if one is given, to a file for other people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

from models.zoo.display import shown
from service.bench.bundle_file import from_json, stated_digest
from service.bench.recommend.evidence import StoredBundle
from service.bench.report.build import build_report
from service.bench.report.document import Report, to_json
from service.bench.report.render import to_csv, to_html, to_markdown
from service.bench.store import BenchmarkStore
from service.cli.evaluate.stored import stored_evaluation
from service.cli.output import check_target, write_document
from service.cli.settings import settings_with
from service.errors import InvalidBundle, InvalidParameter, UnknownBenchmark, error_words
from service.evaluation.result import Evaluation, read_evaluation
from service.evaluation.store import EvaluationStore
from service.inference.registry import Registry
from service.storage.database import open_database

_MOST_IDS = 5
"""Maximum number of ids in a message."""

Target = tuple[str, Path, Callable[[Report], str]]
"""A file to write: the option that names it, its path, and the function that converts the report."""


def report(
    bench: Annotated[
        str | None,
        typer.Option(metavar="ID|FILE", help="Benchmark: its id, or its bundle [default: the newest here]"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="ID|FILE",
            help="Evaluation by `weighin evaluate`: take the accuracies from it [default: from the cards]",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write one HTML file, which needs no network")
    ] = None,
    markdown: Annotated[Path | None, typer.Option("--md", help="Write Markdown, for a pull request")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write a table with a row for each model")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures as JSON")] = None,
) -> None:
    """Write a report of a benchmark: figures with intervals, the front, caveats, how to reproduce it.

    Needs at least one of the formats; `-` writes to standard output.
    """
    targets = _targets(html, markdown, csv, json_file, [Path(each) for each in (bench, data) if each])
    settings = settings_with()
    registry = Registry(
        settings.model_dirs,
        settings.default_model,
        default_detector=settings.default_detector,
        added=settings.added_models,
    )
    cards = {entry.name: entry.card for entry in registry.entries if entry.card is not None}
    engine = open_database(settings.database_url, settings.data_dir)
    try:
        name, content = _bundle(engine, bench)
        evaluation = _evaluation(engine, data)
    finally:
        engine.dispose()
    stored = StoredBundle(name, from_json(content, name))
    document = build_report(stored, stated_digest(content), cards, evaluation)
    texts = [(option, path, write(document)) for option, path, write in targets]
    for option, path, text in texts:
        write_document(path, text, option)


def _targets(
    html: Path | None, markdown: Path | None, csv: Path | None, json: Path | None, inputs: Sequence[Path]
) -> list[Target]:
    """Return the requested files. Raises InvalidParameter unless all of them can be written.

    `inputs`: files that the command may read, which must not be overwritten.
    """
    asked: list[tuple[str, Path | None, Callable[[Report], str]]] = [
        ("--html", html, to_html),
        ("--md", markdown, to_markdown),
        ("--csv", csv, to_csv),
        ("--json", json, to_json),
    ]
    targets = [(option, path, write) for option, path, write in asked if path is not None]
    if not targets:
        raise InvalidParameter("no format (needed: one or more of --html, --md, --csv, --json)")
    seen: dict[Path, str] = {}
    for option, path, _ in targets:
        check_target(path, option, inputs)
        if (other := seen.setdefault(path.absolute(), option)) != option:
            raise InvalidParameter(f"{option} {path}: is the file of {other} too (allowed: a file for each)")
    return targets


def _bundle(engine: Engine, bench: str | None) -> tuple[str, bytes]:
    """Return name and content of a bundle.

    `bench`: a file, or the id of a stored bundle. If it is None, the newest stored bundle is returned. Raises
    InvalidBundle if the file cannot be read, and UnknownBenchmark if no bundle with this id, or none at all,
    is stored.
    """
    if bench is not None and _names_file(bench):
        try:
            return Path(bench).name, Path(bench).read_bytes()
        except OSError as error:
            raise InvalidBundle(f"{shown(bench)} cannot be read: {error_words(error)}") from None
    store = BenchmarkStore(engine)
    ids = [row.id for row in store.rows(_MOST_IDS, measured=True)]
    if bench is None and not ids:
        raise UnknownBenchmark("no benchmark is stored here (needed: `weighin bench`, or --bench FILE)")
    identifier = bench or ids[0]
    content = store.bundle(identifier)
    if content is None:
        row = store.row(identifier)
        problem = "unknown" if row is None else f"{row.state}, without results"
        newest = f", the newest are {', '.join(ids)}" if ids else ", none is stored here"
        raise UnknownBenchmark(
            f"benchmark '{shown(identifier[:64])}': {problem} (allowed: a file, or an id{newest})"
        )
    return identifier, content


def _evaluation(engine: Engine, data: str | None) -> Evaluation | None:
    """Return the evaluation that `data` names, which is an id or a file. Return None if `data` is None.

    Raises UnknownEvaluation and InvalidEvaluation.
    """
    if data is None:
        return None
    if _names_file(data):
        return read_evaluation(Path(data))
    return stored_evaluation(EvaluationStore(engine), data, files=True)


def _names_file(text: str) -> bool:
    """Return whether an option's value means a file: the file exists, or the value looks like a path."""
    path = Path(text)
    return path.exists() or len(path.parts) > 1 or path.suffix == ".json"
