"""Generate docs/instrument.md from the results: figures, targets, and whether each was met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from benchmarks.instrument.order import disagreements
from benchmarks.instrument.traces import BLOCK_RUNS, judge, median_ms, rates, segments, true_slowdowns
from benchmarks.results import Record, Results
from models.zoo.statistics import wilson
from models.zoo.verdicts import LEVEL, MIN_DIFFERENCE
from service.bench.measure.plan import PROFILES

_TARGETS = {"alike": 0.05, "slow3": 0.50, "slow5": 0.90, "slow10": 0.99}
_LEVELS = (0.05, 0.02, 0.01, 0.005, 0.002)
_HEAD = """# How well `weighin bench` tells models apart

Results: how often `weighin bench` detects a known difference, and how often it reports one where there is
none. `python -m benchmarks.instrument page` writes this page from `benchmarks/instrument/results.jsonl`.
All intervals are 95 % intervals. [measurement.md](measurement.md) explains how latency is measured;
[bundle.schema.json](bundle.schema.json) is the format of a measurement.
"""


def page(results: Results) -> str:
    """Return the whole page as Markdown. Experiments that have no results are marked."""
    parts: Sequence[Callable[[Results], list[str]]] = (
        _machine,
        _verdicts,
        _order,
        _noise,
        _stalls,
        _percentiles,
        _loadgen,
    )
    return _HEAD + "\n".join(line for part in parts for line in ["", *part(results)]) + "\n"


def _machine(results: Results) -> list[str]:
    machine = results.last("machine")
    if machine is None:
        return []
    return [
        f"Measured on {machine['cpu']}, {machine['cores']} cores, onnxruntime {machine['onnxruntime']}, "
        f"Python {machine['python']}, with no other known load."
    ]


def _verdicts(results: Results) -> list[str]:
    lines = ["## Verdicts with a known answer", ""]
    every = results.of("trace-launch")
    quiet = [launch for launch in every if launch["quiet"]]
    models = sorted({launch["model"] for launch in quiet})
    if not models:
        return [*lines, "Not measured yet."]
    lines += [
        f"Each launch has seven sessions, which take turns in blocks of {BLOCK_RUNS} runs, in random order: "
        "four equal sessions of a model, and one session of each of three copies whose runs do 3, 5 and 10 % "
        "more work. For each profile (quick, standard, publish; "
        "[benchmarks.md](benchmarks.md#what-a-run-does)), the rounds are cut into disjoint segments. A "
        "segment has as many launches, and as many rounds of each launch, as one run of `weighin bench` with "
        "that profile. In each segment, the four equal sessions form two pairs, which give two verdicts. "
        "Each copy is compared once with two of the equal sessions together, which gives one verdict. "
        "Launches during which the machine was not quiet were excluded: "
        f"{len(every) - len(quiet)} of {len(every)}.",
        "",
        "The target for equal sessions is met if the upper bound of the interval is at most 5 %. The targets "
        "for the copies are met if the measured share is high enough.",
        "",
        "A verdict of faster or slower needs a p-value below the level and a difference of at least "
        f"{MIN_DIFFERENCE:.0%}. `models/zoo/verdicts.py` contains this rule and the level in use. "
        "`separable-81m` is a small network with random weights, generated for this study "
        "(`benchmarks/instrument/network.py`).",
        "",
    ]
    chosen = results.last("rule-chosen")
    chosen_at = 0.0 if chosen is None else chosen["at"]
    if chosen_at:
        lines += [
            'The rows "launches after the rule was chosen" use only the launches that were made after the '
            "rule was chosen. These are cut into segments separately, so the segments are not the same as in "
            "the other rows. So these rows can have a false verdict although the other rows have none.",
            "",
        ]
    by_model = {model: [launch for launch in quiet if launch["model"] == model] for model in models}
    for model, launches in by_model.items():
        slowdowns = ", ".join(
            f"{mean:.1%} [{low:.1%}, {high:.1%}]" for mean, low, high in true_slowdowns(launches).values()
        )
        lines.append(
            f"- `{model}`: {len(launches)} launches, p50 {median_ms(launches):.2f} ms; the copies took "
            f"longer by {slowdowns} over all launches."
        )
    for profile, repetitions in PROFILES.items():
        judged = {
            model: [judge(part) for part in segments(launches, repetitions.launches, repetitions.rounds)]
            for model, launches in by_model.items()
        }
        pooled = [p_values for of_model in judged.values() for p_values in of_model]
        if not pooled:
            continue
        lines += [
            "",
            f"### {len(pooled)} segments as large as a {profile} run ({repetitions.launches} launches of "
            f"{repetitions.rounds} rounds)",
            "",
            "| level | equal sessions called different | 3 % copy found | 5 % copy found | 10 % copy found |",
            "| --- | --- | --- | --- | --- |",
        ]
        for level in _LEVELS:
            mark = " (in use)" if level == LEVEL else ""
            lines.append(_row(f"{level}{mark}", rates(pooled, level)))
        if len(judged) > 1:
            lines += [
                _row(f"in use, `{model}` alone", rates(of_model, LEVEL))
                for model, of_model in judged.items()
                if of_model
            ]
        unseen = [
            judge(part)
            for launches in by_model.values()
            for part in segments(
                [launch for launch in launches if launch["at"] > chosen_at],
                repetitions.launches,
                repetitions.rounds,
            )
        ]
        if chosen_at and unseen:
            lines.append(_row("in use, launches after the rule was chosen", rates(unseen, LEVEL)))
        lines += ["", *_targets(rates(pooled, LEVEL))]
    return lines


def _row(label: str, counts: dict[str, tuple[int, int, float, float]]) -> str:
    cells = [f"{hits}/{n} = {hits / n:.1%} [{low:.1%}, {high:.1%}]" for hits, n, low, high in counts.values()]
    return f"| {label} | " + " | ".join(cells) + " |"


def _targets(counts: dict[str, tuple[int, int, float, float]]) -> list[str]:
    words = []
    for name, target in _TARGETS.items():
        hits, n, _, high = counts[name]
        if name == "alike":
            met = high <= target
            if not met and wilson(0, n)[1] > target:
                words.append(
                    f"equal sessions called different in at most {target:.0%}: {n} verdicts are too few to "
                    "show this"
                )
                continue
            words.append(f"equal sessions called different in at most {target:.0%} (upper bound {high:.1%})")
        else:
            met = hits / n >= target
            percent = name.removeprefix("slow")
            words.append(f"{percent} % copy found in at least {target:.0%} ({hits / n:.1%})")
        words[-1] += ": met" if met else ": **missed**"
    return ["Targets: " + "; ".join(words) + "."]


def _order(results: Results) -> list[str]:
    lines = ["## Do two standard runs rank the models alike?", ""]
    runs = results.of("standard-run")
    if len(runs) < 2:
        return [*lines, "Not measured yet."]
    wrong, distinguishable = 0, 0
    for first, second in pairwise(runs):
        differing, pairs = disagreements(first["verdicts"], second["verdicts"])
        wrong, distinguishable = wrong + len(differing), distinguishable + pairs
        lines.append(
            f"- {len(first['verdicts'])} pairs, {pairs} of them distinguishable in at least one run, "
            f"{len(differing)} ranked differently{': ' + ', '.join(differing) if differing else ''}. The "
            f"runs took {first['seconds']:.0f} and {second['seconds']:.0f} s; "
            f"flags of the first: {_kinds(first)}, of the second: {_kinds(second)}."
        )
    low, high = wilson(wrong, distinguishable)
    between = [
        abs(second["p50_ns"][name] / first["p50_ns"][name] - 1)
        for first, second in pairwise(runs)
        for name in first["p50_ns"].keys() & second["p50_ns"].keys()
    ]
    return [
        *lines,
        "",
        f"Target: no pair ranked differently ({wrong} of {distinguishable} [{low:.1%}, {high:.1%}])"
        f"{': met' if not wrong else ': **missed**'}. The p50 of the same model differed by up to "
        f"{max(between):.1%} between the two runs. So if two measurements come from different runs (two "
        "bundles), a change of this size cannot be told from noise.",
    ]


def _kinds(run: Record) -> str:
    return ", ".join(sorted({flag["kind"] for flag in run["flags"]})) or "none"


def _noise(results: Results) -> list[str]:
    lines = ["## A busy loop on one core for half of a run", ""]
    runs = results.of("noise-run")
    if not runs:
        return [*lines, "Not measured yet."]
    lines += ["[benchmarks.md](benchmarks.md#flags) explains the flags.", ""]
    for noise, words in ((True, "with the loop"), (False, "without the loop")):
        chosen = [run for run in runs if run["noise"] == noise]
        marked = sum(run["marked"] for run in chosen)
        low, high = wilson(marked, len(chosen))
        lines.append(
            f"- {words}: {marked} of {len(chosen)} quick runs flagged `dirty` or `drift` "
            f"[{low:.0%}, {high:.0%}]"
        )
    missed = any(run["noise"] and not run["marked"] for run in runs)
    return [
        *lines,
        "",
        "Target: every run with the loop is flagged: " + ("**missed**." if missed else "met."),
    ]


def _stalls(results: Results) -> list[str]:
    lines = ["## Coordinated omission", ""]
    runs = results.of("stall-run")
    if not runs:
        return [*lines, "Not measured yet."]
    lines += [
        "A real service is stopped (SIGSTOP) for 200 ms every 2 s, and measured by two loops. The closed "
        "loop has one client, which sends its next request after the response. It sends nothing during a "
        "stop, so each stop delays only one request (coordinated omission). The open loop sends 100 requests "
        "per second at random times (Poisson arrivals) and measures latency from the intended send time.",
        "",
        "| service | loop | n | p50 ms | p99 ms | bound on p99 by the rule below, ms | max ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    newest = {(run["stalling"], run["loop"]): run for run in runs}
    for (stalling, loop), run in sorted(newest.items()):
        low, high = (value / 1e6 for value in run["interval_ns"])
        lines.append(
            f"| {'stalling' if stalling else 'undisturbed'} | {loop} | {run['n']} "
            f"| {run['p50_ns'] / 1e6:.2f} | {run['p99_ns'] / 1e6:.1f} [{low:.1f}, {high:.1f}] "
            f"| {run['p99_bound_ns'] / 1e6:.1f} | {run['max_ns'] / 1e6:.0f} |"
        )
    closed, opened = newest[True, "closed"]["p99_ns"], newest[True, "open"]["p99_ns"]
    met = opened > 50e6 > closed
    return [
        *lines,
        "",
        "Target: the stops show in the p99 of the open loop, but not in that of the closed loop: "
        f"{'met' if met else '**missed**'}.",
    ]


def _percentiles(results: Results) -> list[str]:
    lines = ["## The percentile rule against simulation", ""]
    runs = results.of("percentile-simulation")
    if not runs:
        return [*lines, "Not simulated yet."]
    lines += [
        "The rule ([measurement.md](measurement.md#common-rules)) states an upper bound on a percentile, and "
        "assumes independent samples. The last column is the share of 10 000 simulations in which the true "
        "percentile is at most the bound. In the rows with bursts, 2 % of the samples lie in bursts of the "
        "given mean length, and take 1.5 times as long. In these rows, the rule overestimates the number of "
        "independent samples.",
        "",
        "| samples | percentile | n | bound holds |",
        "| --- | --- | --- | --- |",
    ]
    newest = {(run["samples"], run["fraction"], run["n"]): run for run in runs}
    for (samples, fraction, n), run in newest.items():
        low, high = wilson(run["held"], run["runs"])
        lines.append(
            f"| {samples} | p{round(fraction * 100)} | {n} "
            f"| {run['held'] / run['runs']:.2%} [{low:.2%}, {high:.2%}] |"
        )
    worst = min(run["held"] / run["runs"] for run in newest.values() if run["samples"] == "independent")
    met = worst >= 0.99
    return [
        *lines,
        "",
        "Target: the bound holds in at least 99 % of the simulations with independent samples: "
        f"{'met' if met else '**missed**'} (lowest share {worst:.2%}).",
    ]


def _loadgen(results: Results) -> list[str]:
    lines = ["## Against MLPerf's load generator", ""]
    newest = {run["scenario"]: run for run in results.of("loadgen")}
    if not newest:
        return [*lines, "Not measured yet."]
    figure = {"single-stream": "p90", "offline": "images per second"}
    for scenario, run in newest.items():
        met = abs(run["ratio"] - 1) <= 0.05
        lines.append(
            f"- {scenario}, {figure[scenario]}: our figure divided by MLPerf's is {run['ratio']:.4f} "
            f"[{run['low']:.4f}, {run['high']:.4f}], over {run['rounds']} rounds on `{run['model']}`. "
            f"Target: within 5 %: {'met' if met else '**missed**'}"
        )
    return lines
