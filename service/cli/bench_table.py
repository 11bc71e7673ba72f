"""A measurement as a table with its notes."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from models.zoo.statistics import MIN_SAMPLES, PercentileBound
from service.bench.bundle import BenchStage, Bundle
from service.bench.judge.summary import EntrySummary, summarise
from service.cli.output import millions, styled
from service.text.display import shown

_WITHIN_SERVICE: tuple[BenchStage, ...] = ("queue", "decode", "preprocess", "inference", "postprocess")
_LOUD = ("void", "partial", "dirty", "contaminated")


def print_bundle(console: Console, bundle: Bundle) -> None:
    """What was measured, on what, how it came out, and every reason to doubt it."""
    summaries = summarise(bundle)
    print_whole(console, _table(bundle, summaries))
    for line in _about(bundle, summaries):
        console.print(line, style="dim", soft_wrap=True, highlight=False)
    for note in _notes(bundle, summaries):
        console.print(note, soft_wrap=True, highlight=False)


def print_whole(console: Console, table: Table) -> None:
    """Print a table as wide as it is: one that is cut off hides figures, one that wraps keeps them."""
    width = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    before, console.width = console.width, max(width, console.width)
    try:
        console.print(table)
    finally:
        console.width = before


def _table(bundle: Bundle, summaries: list[EntrySummary]) -> Table:
    configuration = bundle.configuration
    offline, server = configuration.scenario == "offline", configuration.scenario == "server"
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    headings = ["accuracy", "bytes", "MACs"]
    if server:
        headings += [f"queries/s at p99 <= {configuration.budget_ms:g} ms"]
    elif not offline:
        headings += ["p50 ms", "p90 ms", "p99 ms"]
    if not server:
        headings += ["images/s"]
    headings += ["memory"]
    if not server:
        headings += ["GMAC/s", "speed-up", "verdict"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for each in summaries:
        cells = [_accuracy(each), f"{each.model.bytes / 1e6:.1f} MB", millions(each.model.macs)]
        if server:
            cells += ["" if each.rate_per_s is None else f"{each.rate_per_s:.0f}"]
        elif not offline:
            cells += [
                "" if each.p50_ns is None else f"{each.p50_ns / 1e6:.3f}",
                _percentile(each.p90, 0.90, each.count),
                _percentile(each.p99, 0.99, each.count),
            ]
        if not server:
            cells += ["" if each.images_per_s is None else f"{each.images_per_s:.0f}"]
        memory = each.peak_memory_bytes
        cells += ["" if memory is None else f"{memory / 1e6:.0f} MB"]
        if not server:
            cells += ["" if each.gmacs_per_s is None else f"{each.gmacs_per_s:.1f}", *_speedup(bundle, each)]
        table.add_row(shown(each.entry.name), *cells)
    return table


def _accuracy(each: EntrySummary) -> str:
    accuracy = each.model.accuracy
    if accuracy is None:
        return "unknown" if each.model.trained else "untrained"
    mark = {"measured": "", "reported": " r", "inherited": " i"}[accuracy.kind]
    return f"{accuracy.value:.1%}{mark}"


def _percentile(bound: PercentileBound | None, fraction: float, count: int) -> str:
    if bound is None:
        return f"n {count} < {MIN_SAMPLES[fraction]}" if count else ""
    return f"<= {bound.bound_ns / 1e6:.3f} ({bound.estimate_ns / 1e6:.3f})"


def _speedup(bundle: Bundle, each: EntrySummary) -> tuple[str, str]:
    if each.entry.name == bundle.configuration.baseline:
        return "1", "baseline"
    if each.comparison is None:
        return "", ""
    speedup, low, high = each.comparison.speedup
    return f"{speedup:.2f}x [{low:.2f}, {high:.2f}]", each.comparison.verdict


def _about(bundle: Bundle, summaries: list[EntrySummary]) -> list[str]:
    configuration, machine = bundle.configuration, bundle.fingerprint.machine
    runtimes = ", ".join(
        f"{name} {version}" for name, version in bundle.fingerprint.software.runtimes.items()
    )
    inputs = configuration.inputs
    fed = "one fixed picture" if inputs.kind == "synthetic" else f"{inputs.count} photos"
    lines = [
        f"{machine.cpu_model}, {machine.cores} cores; {runtimes}; {fed}",
        f"{configuration.profile} {configuration.scenario}: {configuration.launches} launches x "
        f"{configuration.rounds} rounds; all models loaded, one at a time running; seed {configuration.seed}",
        "accuracy: r reported by the publisher of the weights, i inherited from the parent; "
        "p90, p99: bound with 99 % confidence (estimate)",
    ]
    cold = [
        f"{each.entry.name} {each.load_ns / 1e6:.0f} + {each.first_run_ns / 1e6:.1f} ms"
        for each in summaries
        if each.load_ns is not None and each.first_run_ns is not None and not each.entry.control
    ]
    if cold:
        lines.append("cold start (load + first run): " + ", ".join(cold))
    return lines


def _notes(bundle: Bundle, summaries: list[EntrySummary]) -> list[Text]:
    notes = []
    for kind in (*_LOUD, "unstable", "drift"):
        for flag in bundle.flags:
            if flag.kind == kind:
                whose = f"{flag.entry}: " if flag.entry else ""
                notes.append(styled((kind, "bold red"), f": {whose}{flag.reason}"))
    configuration = bundle.configuration
    quick = configuration.profile == "quick" and configuration.scenario == "single-stream"
    if quick and any(each.p99 is None for each in summaries):
        notes.append(styled(("quick", "yellow"), ": too few runs for a p99; --profile standard has enough"))
    notes += [
        styled(("untrained", "yellow"), f": {model.name} has random weights, whose latency may mislead")
        for model in bundle.models
        if not model.trained
    ]
    return notes + [styled(line) for line in _overheads(summaries)]


def _overheads(summaries: list[EntrySummary]) -> list[str]:
    """What the service adds to the bare session, per model that was measured both ways."""
    bare = {each.entry.name: each for each in summaries if each.entry.via == "session"}
    lines = []
    for each in summaries:
        own = bare.get(each.entry.model)  # one thread in ONNX Runtime, as a service runs it
        if each.entry.via != "http" or own is None or "total" not in own.stages_p50_ns:
            continue
        p50 = {stage: ns / 1e6 for stage, ns in each.stages_p50_ns.items()}
        alone = own.stages_p50_ns["total"] / 1e6
        within = ", ".join(f"{stage} {p50[stage]:.3f}" for stage in _WITHIN_SERVICE)
        lines.append(
            f"{each.entry.name}: {p50['round_trip']:.3f} ms = {alone:.3f} bare, from bytes to logits, "
            f"+ {p50['round_trip'] - alone:.3f} overhead; {p50['round_trip'] - p50['total']:.3f} of it is "
            f"outside the service's own {p50['total']:.3f} ({within})"
        )
    return lines
