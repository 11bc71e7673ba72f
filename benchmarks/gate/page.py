"""Generate the section of docs/ci-gate.md on how often the gate is wrong, from the results."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.gate import accuracy
from benchmarks.gate.record import SLOW, digest, launches, slowdown
from benchmarks.gate.replay import EQUAL_GATE, SLOW_GATE, Counts, Replayed, counted, replay
from benchmarks.results import Record, Results
from models.zoo.statistics import wilson
from service.cli.gate.decision import MAX_LAUNCHES, Limits, Outcome
from service.cli.gate.measure import ROUNDS_PER_LAUNCH

PAGE = Path(__file__).parents[2] / "docs" / "ci-gate.md"
HEADING = "## How often the gate is wrong\n"
_LIMITS = Limits()
_MOSTLY = 0.9
_CONDITIONS = ((False, "quiet"), (True, "one core busy"))


def write(results: Results, page: Path = PAGE) -> None:
    """Replace the last section of the page."""
    text = page.read_text()
    page.write_text(text[: text.index(HEADING)] + section(results))


def section(results: Results) -> str:
    """Return the section as Markdown."""
    parts: Sequence[Callable[[Results], list[str]]] = (_traces, latency, _accuracy, _live)
    head = [
        HEADING,
        "`python -m benchmarks.gate page` makes this section from `benchmarks/gate/results.jsonl`. Brackets "
        "contain 95 % intervals. The limits are the defaults: 3 % slower, and a loss of 0.5 points.",
    ]
    return "\n".join([*head, *(line for part in parts for line in ["", *part(results)])]) + "\n"


def _traces(results: Results) -> list[str]:
    machine = results.last("machine")
    assert machine is not None
    lines = [
        f"Measured on {machine['cpu']}, {machine['cores']} cores, onnxruntime {machine['onnxruntime']}, "
        f"Python {machine['python']}.",
        "",
        "Each recorded launch is a new process that interleaves the runs of three equal sessions of a "
        "network. Most launches also have a slower session, whose runs do 8 % more work. During launches "
        "with one core busy, another process kept one of the two cores busy: a loop, or a second process "
        "that recorded launches.",
        "",
        "| traces | launches | rounds | p50 ms | the slower session took longer by | SHA-256 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for model, _, words, traces in _groups(results):
        mean, low, high = slowdown(_with_slow(traces))
        rounds = sum(len(launch["medians_us"]["a1"]) for launch in traces)
        p50 = statistics.median(
            median for launch in traces for name in ("a1", "a2") for median in launch["medians_us"][name]
        )
        lines.append(
            f"| `{model}`, {words} | {len(traces)} | {rounds} | {p50 / 1e3:.2f} | {mean:.1%} "
            f"[{low:.1%}, {high:.1%}] | `{digest(traces)}` |"
        )
    flagged = sum(
        launch["part"] == "proof" and not launch["busy"] and not launch["quiet"]
        for launch in results.of("launch")
    )
    return [
        *lines,
        "",
        f"The replayed gates use all launches that this table counts. `weighin bench` would flag {flagged} "
        "of the launches on the quiet machine as `dirty`. For each round, the median of each session was "
        "recorded. The gates below are replayed from these medians, and the SHA-256 is computed from them "
        "(`benchmarks/gate/record.py`). Other launches served to choose the numbers of rounds per launch and "
        "of runs per round; they are in `benchmarks/gate/results.jsonl`, with `part` `choose`.",
    ]


def latency(results: Results, part: str = "proof") -> list[str]:
    """Return the table of gates that are replayed from the traces of `part`, and a text on the targets."""
    lines = [
        "### Latency: gates replayed from the traces",
        "",
        "Each replayed gate goes through the recorded launches in random order, and takes "
        f"{ROUNDS_PER_LAUNCH} rounds of each. As `weighin gate` does, it takes launches until its verdict is "
        f"certain, but at most {MAX_LAUNCHES}. "
        "No two gates of a row share a round. But they take different rounds of the same launches, so they "
        "are not fully independent.",
        "",
        "| traces | new network | gates | fail | pass | cannot say | launches, median |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    totals: dict[tuple[bool, str], Counts] = {}
    for model, busy, words, traces in _groups(results, part):
        for kind, names in (("equal", EQUAL_GATE), ("8 % slower", SLOW_GATE)):
            usable = traces if kind == "equal" else _with_slow(traces)
            gates = replay(usable, names, _LIMITS.max_slower, ROUNDS_PER_LAUNCH)
            if not gates:  # too few launches are recorded
                continue
            counts = counted(gate.judgement.outcome for gate in gates)
            totals[busy, kind] = totals.get((busy, kind), counted([])) + counts
            lines.append(f"| `{model}`, {words} | {kind} | {_cells(counts)} | {_launches(gates)} |")
    for busy, words in _CONDITIONS:
        for kind in ("equal", "8 % slower"):
            if (busy, kind) in totals:
                lines.append(f"| all, {words} | {kind} | {_cells(totals[busy, kind])} | |")
    return [*lines, "", *_latency_targets(totals)]


def _latency_targets(totals: dict[tuple[bool, str], Counts]) -> list[str]:
    none = counted([])
    quiet, slow = totals.get((False, "equal"), none), totals.get((False, "8 % slower"), none)
    busy, busy_slow = totals.get((True, "equal"), none), totals.get((True, "8 % slower"), none)
    undecided, n = quiet.outcomes["undecided"] + slow.outcomes["undecided"], quiet.n + slow.n
    wrong, busy_n = busy.outcomes["fail"] + busy_slow.outcomes["pass"], busy.n + busy_slow.n
    false, equal_n = quiet.outcomes["fail"] + busy.outcomes["fail"], quiet.n + busy.n
    return [
        "Targets:",
        "",
        _target("equal networks that fail", "upper bound at most 1 %", false, equal_n, _upper(0.01)),
        _target(
            "8 % slower networks that fail, quiet",
            "at least 90 %",
            slow.outcomes["fail"],
            slow.n,
            _least(0.9),
        ),
        _target("gates that cannot say, quiet", "at most 10 %", undecided, n, _most(0.1)),
        _target("wrong verdicts, one core busy", "at most 1 %", wrong, busy_n, _most(0.01)),
    ]


def _least(share: float) -> Callable[[int, int], bool]:
    return lambda count, n: count / n >= share


def _most(share: float) -> Callable[[int, int], bool]:
    return lambda count, n: count / n <= share


def _upper(share: float) -> Callable[[int, int], bool]:
    return lambda count, n: wilson(count, n)[1] <= share


def _accuracy(results: Results) -> list[str]:
    recorded = results.of("answers")
    if not recorded:
        return ["### Accuracy", "", "Not measured yet."]
    lines = [
        "### Accuracy: gates on drawn pictures",
        "",
        "Discordance is the share of pictures that only one of the two networks answers correctly. The "
        f"discordance of `{recorded[0]['base']}` with each of four other networks was recorded on the "
        f"{recorded[0]['n']} test pictures of Fashion-MNIST. Each simulated gate draws outcomes at random "
        "instead of running the networks. For each picture, it draws whether only one of the two networks "
        "answers correctly; the probability of this is the recorded discordance. The two networks are either "
        "equally accurate, or the new one is 1.5 points less accurate. Two networks whose accuracies "
        "differ by 1.5 points have a discordance of at least 1.5 %. So if the recorded discordance is lower, "
        "the gates of the less accurate network use 1.5 %. Each row has "
        f"{accuracy.GATES} gates of each of these two kinds.",
        "",
        "| new network | discordance | pictures | equal: fail | equal: cannot say | 1.5 points worse: fail | "
        "worse: pass | worse: cannot say |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    enough = []
    for answers in recorded:
        smallest: int | None = None
        for pictures in accuracy.PICTURES:
            equal, worse = (
                accuracy.replay(answers, pictures, loss, _LIMITS.max_loss)
                for loss in (0.0, accuracy.WORSE_BY)
            )
            shares = [
                _share(equal, "fail"),
                _share(equal, "undecided"),
                _share(worse, "fail"),
                _share(worse, "pass"),
                _share(worse, "undecided"),
            ]
            lines.append(
                f"| `{answers['new']}` | {_discordances(answers)} | {pictures} | {' | '.join(shares)} |"
            )
            found, decided = worse.outcomes["fail"] / worse.n, 1 - equal.outcomes["undecided"] / equal.n
            if smallest is None and min(found, decided) >= _MOSTLY:
                smallest = pictures
        of_equal, *of_worse = _discordances(answers).split(" and ")
        at = "".join((of_equal, *(f" ({share} for the less accurate network)" for share in of_worse)))
        enough.append(f"{smallest or f'over {accuracy.PICTURES[-1]}'} at {at}")
    return [
        *lines,
        "",
        f"Target: at least {_MOSTLY:.0%} of the gates fail the network that is 1.5 points worse, and at "
        f"least {_MOSTLY:.0%} decide about equal networks. The number of pictures that meets this target "
        f"depends on the discordance: {', '.join(enough)}.",
    ]


def _discordances(answers: Record) -> str:
    shares = [accuracy.discordance(answers, loss) for loss in (0.0, accuracy.WORSE_BY)]
    return " and ".join(dict.fromkeys(f"{share:.1%}" for share in shares))


def _live(results: Results) -> list[str]:
    gates = results.of("live-gate")
    if not gates:
        return ["### Live gates", "", "Not measured yet."]
    lines = [
        "### Live gates",
        "",
        "These gates are runs of `weighin gate` itself. The new network is a copy of the base. The copy "
        "`equal` differs from the base only in a comment in the file, because the gate measures nothing if "
        "both files are identical. The copy `slow` has an additional convolution, which was "
        "sized to cost 8 % and does not change any answer.",
        "",
        "| network, machine | new network | gates | exit 1 | exit 0 | exit 2 | slower by, median | "
        "launches, median | seconds, median (longest) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for busy, words in _CONDITIONS:
        for model, kind in dict.fromkeys((gate["model"], gate["new"]) for gate in gates):
            chosen = [
                gate for gate in gates if (gate["model"], gate["new"], gate["busy"]) == (model, kind, busy)
            ]
            if not chosen:
                continue
            exits = [str(sum(gate["exit"] == code for gate in chosen)) for code in (1, 0, 2)]
            ratio = statistics.median(gate["latency"]["ratio"] for gate in chosen)
            taken = statistics.median(gate["latency"]["launches"] for gate in chosen)
            seconds = [gate["seconds"] for gate in chosen]
            lines.append(
                f"| `{model}`, {words} | {kind} | {len(chosen)} | {' | '.join(exits)} | {ratio - 1:+.1%} | "
                f"{taken:g} | {statistics.median(seconds):.0f} ({max(seconds):.0f}) |"
            )
    return lines


def _groups(results: Results, part: str = "proof") -> Iterable[tuple[str, bool, str, list[Record]]]:
    models = list(dict.fromkeys(launch["model"] for launch in results.of("launch")))
    for busy, words in _CONDITIONS:
        for model in models:
            traces = launches(results, model, busy=busy, part=part)
            if traces:
                yield model, busy, words, traces


def _with_slow(traces: Sequence[Record]) -> list[Record]:
    return [launch for launch in traces if SLOW in launch["medians"]]


def _cells(counts: Counts) -> str:
    return " | ".join([str(counts.n), *(_share(counts, outcome) for outcome in _OUTCOMES)])


_OUTCOMES: tuple[Outcome, ...] = ("fail", "pass", "undecided")


def _share(counts: Counts, outcome: Outcome) -> str:
    return _percent(counts.outcomes[outcome], counts.n)


def _percent(count: int, n: int) -> str:
    low, high = wilson(count, n)
    return f"{count} = {count / n:.1%} [{low:.1%}, {high:.1%}]"


def _launches(gates: Sequence[Replayed]) -> str:
    return f"{statistics.median(gate.judgement.launches for gate in gates):g}"


def _target(words: str, target: str, count: int, n: int, met: Callable[[int, int], bool]) -> str:
    if not n:
        return f"- {words}: not measured yet"
    low, high = wilson(count, n)
    verdict = "met" if met(count, n) else "**missed**"
    share = f"{count} of {n}, {count / n:.1%} [{low:.1%}, {high:.2%}]"
    return f"- {words} (target: {target}): {share}, {verdict}"
