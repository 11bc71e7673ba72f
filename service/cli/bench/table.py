"""Print a bundle as a table with notes."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.zoo.display import shown
from models.zoo.statistics import MIN_SAMPLES, PercentileBound
from models.zoo.verdicts import MIN_ROUNDS
from service.bench.bundle import BenchStage, Bundle
from service.bench.judge.summary import EntrySummary, summarise
from service.cli.output import millions, print_whole, styled

_WITHIN_SERVICE: tuple[BenchStage, ...] = ("queue", "decode", "preprocess", "inference", "postprocess", "nms")
_LOUD = ("void", "partial", "dirty", "contaminated")


def print_bundle(console: Console, bundle: Bundle) -> None:
    """Print the figures of each model, the machine, the configuration, and the bundle's flags."""
    summaries = summarise(bundle)
    print_whole(console, _table(bundle, summaries))
    for line in _about(bundle, summaries):
        console.print(line, style="dim", soft_wrap=True, highlight=False)
    for note in _notes(bundle, summaries):
        console.print(note, soft_wrap=True, highlight=False)


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
    for summary in summaries:
        cells = [_accuracy(summary), f"{summary.model.bytes / 1e6:.1f} MB", millions(summary.model.macs)]
        if server:
            cells += ["" if summary.rate_per_s is None else f"{summary.rate_per_s:.0f}"]
        elif not offline:
            cells += [
                "" if summary.p50_ns is None else f"{summary.p50_ns / 1e6:.3f}",
                _percentile(summary.p90, 0.90, summary.count),
                _percentile(summary.p99, 0.99, summary.count),
            ]
        if not server:
            cells += ["" if summary.images_per_s is None else f"{summary.images_per_s:.0f}"]
        memory = summary.peak_memory_bytes
        cells += ["" if memory is None else f"{memory / 1e6:.0f} MB"]
        if not server:
            gmacs = "" if summary.gmacs_per_s is None else f"{summary.gmacs_per_s:.1f}"
            cells += [gmacs, *_speedup(bundle, summary)]
        table.add_row(shown(summary.entry.name), *cells)
    return table


def _accuracy(summary: EntrySummary) -> str:
    accuracy = summary.model.accuracy
    if accuracy is None:
        return "unknown" if summary.model.trained else "untrained"
    mark = {"measured": "", "reported": " r", "inherited": " i"}[accuracy.kind]
    return f"{accuracy.value:.1%}{mark}"


def _percentile(bound: PercentileBound | None, fraction: float, count: int) -> str:
    if bound is None:
        return f"n {count} < {MIN_SAMPLES[fraction]}" if count else ""
    return f"<= {bound.bound_ns / 1e6:.3f} ({bound.estimate_ns / 1e6:.3f})"


def _speedup(bundle: Bundle, summary: EntrySummary) -> tuple[str, str]:
    if summary.entry.name == bundle.configuration.baseline:
        return "1", "baseline"
    if summary.comparison is None:
        return "", ""
    speedup, low, high = summary.comparison.speedup
    interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return f"{speedup:.2f}x{interval}", summary.comparison.verdict


def _about(bundle: Bundle, summaries: list[EntrySummary]) -> list[str]:
    configuration, machine = bundle.configuration, bundle.fingerprint.machine
    runtimes = ", ".join(
        f"{name} {version}" for name, version in bundle.fingerprint.software.runtimes.items()
    )
    inputs = configuration.inputs
    images = "one fixed picture" if inputs.kind == "synthetic" else f"{inputs.count} photos"
    lines = [
        f"{machine.cpu_model}, {machine.cores} cores; {runtimes}; {images}",
        f"{configuration.profile} {configuration.scenario}: {configuration.launches} launches x "
        f"{configuration.rounds} rounds; all models loaded, one runs at a time; seed {configuration.seed}",
        "accuracy: r reported by the publisher, i inherited from the fp32 model; "
        "p90, p99: upper bound at 99 % confidence (estimate)",
    ]
    cold = [
        f"{summary.entry.name} {summary.load_ns / 1e6:.0f} + {summary.first_run_ns / 1e6:.1f} ms"
        for summary in summaries
        if summary.load_ns is not None and summary.first_run_ns is not None and not summary.entry.control
    ]
    other = {
        start.entry: start.precision
        for start in bundle.cold
        if start.precision not in (None, bundle.model_of(bundle.entry(start.entry)).precision)
    }
    if other:
        ran = ", ".join(f"{name} {precision}" for name, precision in other.items())
        lines.append(f"not in the precision of the model's card, whose accuracy is shown: {ran}")
    if cold:
        lines.append("cold start (load + first run): " + ", ".join(cold))
    return lines


def _notes(bundle: Bundle, summaries: list[EntrySummary]) -> list[Text]:
    notes = []
    for kind in (*_LOUD, "unstable", "drift"):
        for flag in bundle.flags:
            if flag.kind == kind:
                entry = f"{flag.entry}: " if flag.entry else ""
                notes.append(styled((kind, "bold red"), f": {entry}{flag.reason}"))
    configuration = bundle.configuration
    quick = configuration.profile == "quick" and configuration.scenario == "single-stream"
    if quick and any(summary.p99 is None for summary in summaries):
        notes.append(styled(("quick", "yellow"), ": too few runs for a p99 (use --profile standard)"))
    rounds = [summary.comparison.rounds for summary in summaries if summary.comparison is not None]
    if rounds and min(rounds) < MIN_ROUNDS:
        reason = f": {min(rounds)}, too few for a verdict and an interval (needed: {MIN_ROUNDS})"
        notes.append(styled(("rounds", "yellow"), reason))
    notes += [
        styled(("untrained", "yellow"), f": {model.name} has random weights; its latency may mislead")
        for model in bundle.models
        if not model.trained
    ]
    return notes + [styled(line) for line in _overheads(summaries)]


def _overheads(summaries: list[EntrySummary]) -> list[str]:
    """Return, for each model that was measured with and without the service, a line with the difference."""
    bare = {
        (summary.entry.model, summary.entry.runtime): summary
        for summary in summaries
        if summary.entry.via == "session" and summary.entry.threads == 1 and not summary.entry.control
    }
    lines = []
    for summary in summaries:
        session = bare.get((summary.entry.model, summary.entry.runtime))  # the runtime that the service uses
        if summary.entry.via != "http" or session is None or "total" not in session.stages_p50_ns:
            continue
        p50 = {stage: ns / 1e6 for stage, ns in summary.stages_p50_ns.items()}
        session_ms = session.stages_p50_ns["total"] / 1e6
        stages = ", ".join(f"{stage} {p50[stage]:.3f}" for stage in _WITHIN_SERVICE if stage in p50)
        lines.append(
            f"{summary.entry.name}: {p50['round_trip']:.3f} ms = {session_ms:.3f} bare session, bytes to "
            f"logits, + {p50['round_trip'] - session_ms:.3f} overhead; "
            f"{p50['round_trip'] - p50['total']:.3f} of it is outside the service's own "
            f"{p50['total']:.3f} ({stages})"
        )
    return lines
