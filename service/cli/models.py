"""`weighin models`: list the models of the zoo."""

from __future__ import annotations

from rich.table import Table

from models.zoo.display import shown
from service.cli.output import STANDARD_OUTPUT, JsonFile, check_target, console, millions, styled, write_json
from service.cli.settings import settings_with
from service.inference.loading import served_accuracy
from service.inference.registry import Registry
from service.inference.runtimes.choice import runtime_choices
from service.settings import Settings


def list_models(json_file: JsonFile = None) -> None:
    """List the models that the service would serve, and why others would not be served."""
    if json_file is not None:
        check_target(json_file, "--json")
    settings = settings_with()
    registry = Registry(
        settings.model_dirs,
        settings.default_model,
        added=settings.added_models,
        choices=runtime_choices(settings),
    )
    registry.load()
    if json_file is not None:
        from service.api.models import models_out  # imported here, because the import takes half a second

        write_json(json_file, models_out(registry))
    if json_file != STANDARD_OUTPUT:
        _show(registry, settings)


def _show(registry: Registry, settings: Settings) -> None:
    out = console()
    table = Table("model", "labels", "runtime", "precision", box=None, pad_edge=False)
    for heading in ("parameters", "MACs", "bytes", "top-1"):
        table.add_column(heading, justify="right")
    table.add_column("accuracy source")
    table.add_column("assumed")
    for entry in registry.entries:
        card = entry.card
        if card is None or entry.model is None:
            table.add_row(shown(entry.name), styled(("not served:", "red"), f" {entry.reason}"))
            continue
        accuracy = served_accuracy(entry)
        table.add_row(
            card.name + (" *" if card.name in (settings.default_model, settings.default_detector) else ""),
            card.labels,
            entry.model.predictor.runtime,
            entry.model.predictor.precision,
            f"{card.parameters / 1e6:.2f} M",
            millions(card.macs),
            f"{card.file.bytes / 1e6:.1f} MB",
            "" if accuracy is None else f"{accuracy.value:.1%}",
            "" if accuracy is None else accuracy.kind,
            styled((f"{len(card.doubtful)} facts", "yellow")) if card.doubtful else "",
        )
    out.print(table)
    out.print("* default model of its task", style="dim")
    for entry in registry.entries:
        if entry.card is not None and entry.card.doubtful:
            line = f"{entry.name}: assumed, predictions may be wrong: {', '.join(entry.card.doubtful)}"
            out.print(styled((line, "yellow")), soft_wrap=True)
