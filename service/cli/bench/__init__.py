"""`weighin bench`: benchmark models on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from models.zoo.display import comma_list, shown
from service.bench.archive import BenchmarkArchive
from service.bench.bundle import Bundle
from service.bench.bundle_file import to_json
from service.bench.measure import progress as progress_of
from service.bench.measure.plan import Plan, Request, make_plan
from service.bench.measure.runner import Runner
from service.cli.bench.compare import compare_files
from service.cli.bench.table import print_bundle
from service.cli.output import (
    CANCELLED,
    STANDARD_OUTPUT,
    JsonFile,
    LiteralConsole,
    check_target,
    say,
    write_json,
)
from service.cli.settings import settings_with
from service.errors import DataDirectoryInUse, InvalidParameter, StorageUnavailable
from service.inference.registry import Registry
from service.settings import Settings
from service.state import open_state

bench_app = typer.Typer(
    help="Benchmark models on this machine, interleaved, in separate processes.",
    invoke_without_command=True,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
)
bench_app.command("compare")(compare_files)


@bench_app.callback()
def bench(
    context: typer.Context,
    models: Annotated[
        str | None, typer.Option(help="Names, separated by commas [default: all comparable]")
    ] = None,
    profile: Annotated[str, typer.Option(help="quick, standard or publish")] = "quick",
    scenario: Annotated[str, typer.Option(help="single-stream, offline or server")] = "single-stream",
    baseline: Annotated[
        str | None, typer.Option(help="Model that others are compared with [default: the default model]")
    ] = None,
    threads: Annotated[str, typer.Option(help="Threads per run, or several numbers, e.g. 1,2")] = "1",
    runtime: Annotated[
        str, typer.Option(help="onnxruntime, openvino, or onnxruntime,openvino")
    ] = "onnxruntime",
    photos: Annotated[
        list[Path] | None,
        typer.Option("--input", help="Photo to run on, repeatable [default: one fixed picture]"),
    ] = None,
    url: Annotated[
        str | None, typer.Option("--http", help="Also measure over HTTP, through the service at this URL")
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option(help="Scenario server: highest allowed p99 in milliseconds")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the random order [default: random]")] = None,
    launches: Annotated[
        int | None, typer.Option(min=1, help="Processes per benchmark [default: the profile's]")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds per launch [default: the profile's]")
    ] = None,
    runs: Annotated[
        int | None, typer.Option(min=1, help="Runs per model and round [default: the profile's]")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Benchmark models: separate processes, warm-up until stable, interleaved rounds, tested differences."""
    if context.invoked_subcommand is not None:
        return
    if json_file is not None:
        check_target(json_file, "--json", photos or ())  # now, not after minutes of measuring
    settings = settings_with()
    registry = Registry(settings.model_dirs, settings.default_model, added=settings.added_models)
    plan = make_plan(
        registry,
        Request(
            models=None if models is None else tuple(comma_list(models)),
            profile=profile,
            scenario=scenario,
            baseline=baseline,
            threads=_numbers(threads),
            runtimes=tuple(comma_list(runtime)),
            photos=tuple(photos or ()),
            url=url,
            budget_ms=budget_ms,
            seed=seed,
            launches=launches,
            rounds=rounds,
            runs=runs,
        ),
    )
    bundle = _run(plan)
    if bundle.blocks or bundle.trials:
        _store(settings, bundle)
    try:
        if json_file is not None:
            write_json(json_file, to_json(bundle))
    finally:  # print the table even if the disk is full
        if json_file != STANDARD_OUTPUT:
            print_bundle(LiteralConsole(), bundle)
    if bundle.flags_of("partial"):
        raise typer.Exit(CANCELLED)


def _store(settings: Settings, bundle: Bundle) -> None:
    """Save the bundle in the data directory, where `weighin recommend` finds it.

    If it cannot be saved, for example because another process has locked the directory, print why.
    """
    try:
        with open_state(settings.data_dir, settings.database_url) as state:
            BenchmarkArchive(state.benchmarks).save(bundle)
    except (DataDirectoryInUse, StorageUnavailable) as error:
        say(f"not saved for `weighin recommend`: {error.detail}", error=True)


def _run(plan: Plan) -> Bundle:
    """Run the benchmark with a progress display on standard error. After Ctrl-C, return a partial bundle."""
    display = Progress(
        TextColumn("{task.fields[where]}", markup=False),
        BarColumn(),
        _TimeLeft(),
        TextColumn("{task.description}", markup=False),
        console=LiteralConsole(stderr=True),
        transient=True,
        refresh_per_second=2,  # low, because a refresh takes time of a core that is being measured
    )
    with display:
        task = display.add_task("starting", total=1.0, where="", left_s=None)

        def show(now: progress_of.Progress) -> None:
            where = f"launch {now.launch}/{now.launches}" if now.launch else "preparing"
            if now.round:
                where += f", round {now.round}/{now.rounds}"
            display.update(
                task, description=shown(now.doing), completed=now.done, where=where, left_s=now.left_s
            )

        return Runner(plan, show).run()


class _TimeLeft(ProgressColumn):
    def render(self, task: Task) -> Text:
        left = task.fields["left_s"]
        if left is None:
            return Text("")
        minutes, seconds = divmod(round(left), 60)
        return Text(f"{minutes}:{seconds:02d} left")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in comma_list(text))
    except ValueError:
        raise InvalidParameter(f"--threads '{text[:100]}': invalid (allowed: integers, by comma)") from None
