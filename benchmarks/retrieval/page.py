"""Generate the tables of docs/retrieval.md from the results."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import Record, Results
from benchmarks.retrieval.edited import EDITS, PICTURES
from benchmarks.retrieval.near import rule_rows
from benchmarks.retrieval.rivals import RIVALS
from models.zoo.statistics import wilson

PAGE = Path(__file__).parents[2] / "docs" / "retrieval.md"
BEGIN, END = "<!-- figures: python -m benchmarks.retrieval page -->\n", "<!-- end of figures -->\n"
OURS = {"exact": "**Weigh-in**, exact", "hnsw": "**Weigh-in**, HNSW"}
KB = 1024
INDEX_KB = 3.0
EXACT_P99_MS, HNSW_P99_MS = 15.0, 3.0


def write(results: Results) -> None:
    """Replace the tables between the markers of the page."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{figures(results)}\n{END}{after}")


def figures(results: Results) -> str:
    """Return, as Markdown, all tables that have results."""
    searches: dict[tuple[str, int], Record] = {
        (record["way"], record["images"]): record for record in results.of("search")
    }
    parts = [searched(searches, images) for images in (10_000, 100_000)]
    parts += [targets(searches), filtered(searches), churned(searches)]
    measured = results.last("edited")
    parts += (
        ["Edited copies were not measured.\n"]
        if measured is None
        else [edited_copies(measured), rules(measured)]
    )
    return "\n".join(parts)


def searched(searches: dict[tuple[str, int], Record], images: int) -> str:
    """Return the table that compares the search methods on `images` vectors."""
    rows = []
    for way, name in {**OURS, **{rival: rival for rival in RIVALS}}.items():
        record = searches.get((way, images))
        built = searches.get(("build", images)) if way == "hnsw" else record
        if record is not None and built is not None:
            rows.append(
                (
                    name,
                    f"{record['recall']:.4f}",
                    *(_spread(record[key]) for key in ("p50_ms", "p99_ms", "cpu_p50_ms", "cpu_p99_ms")),
                    f"{built['build_s']:.1f}",
                    f"{built['build_cpu_s']:.1f}",
                    f"{record['bytes_per_vector'] / KB:.2f}",
                )
            )
    head = (
        "",
        "recall@10",
        "p50 ms",
        "p99 ms",
        "CPU p50 ms",
        "CPU p99 ms",
        "build s",
        "build CPU s",
        "KB a vector",
    )
    machines = [
        record["machine"]
        for (_, measured), record in searches.items()
        if measured == images and "machine" in record
    ]
    where = ""
    if machines:
        loads = [machine["load_average"][0] for machine in machines]
        kinds = sorted({f"{machine['cores']} cores of {machine['cpu']}" for machine in machines})
        where = f"\nOn {', '.join(kinds)}; load average meanwhile {min(loads)} to {max(loads)}.\n"
    return f"### {_number(images)} vectors of 1 280 dimensions\n\n" + _table(head, rows) + where


def targets(searches: dict[tuple[str, int], Record]) -> str:
    """Return the table of targets, which says whether each was met."""
    rows: list[tuple[str, ...]] = []

    def row(name: str, value: str, target: str, met: bool) -> None:
        rows.append((name, value, target, "met" if met else "**missed**"))

    for way, images in (("exact", 10_000), ("exact", 20_000), ("hnsw", 10_000), ("hnsw", 100_000)):
        if (record := searches.get((way, images))) is None:
            continue
        least, limit = (1.0, EXACT_P99_MS) if way == "exact" else (0.99, HNSW_P99_MS)
        where = f"{way}, {_number(images)}"
        row(f"recall@10, {where}", f"{record['recall']:.4f}", f"≥ {least}", record["recall"] >= least)
        p99 = statistics.median(record["p99_ms"])
        cpu = statistics.median(record["cpu_p99_ms"])
        row(
            f"search p99, {where}",
            f"{p99:.1f} ms, {cpu:.1f} of them CPU",
            f"≤ {limit:g} ms",
            p99 <= limit,
        )
    if (record := searches.get(("no index", 100_000))) is not None:
        row(
            "recall@10 of the first requests without an index file, 100 000",
            f"{record['recall']:.4f}, an answer in {record['slowest_s']:.1f} s at most",
            "1.0",
            record["recall"] == 1,
        )
    if (record := searches.get(("build", 100_000))) is not None:
        kb = record["bytes_per_vector"] / KB
        row(
            "memory per vector after the build, 100 000", f"{kb:.2f} KB", f"≤ {INDEX_KB:g} KB", kb <= INDEX_KB
        )
    if (record := searches.get(("hnsw", 100_000))) is not None:
        kb = record["bytes_per_vector"] / KB
        row("memory per vector after loading, 100 000", f"{kb:.2f} KB", f"≤ {INDEX_KB:g} KB", kb <= INDEX_KB)
        seconds = record["first_answer_s"]
        row(
            "start with an index file to the first answer, 100 000", f"{seconds:.2f} s", "≤ 2 s", seconds <= 2
        )
    for images in (10_000, 100_000):
        if (record := searches.get(("churn", images))) is not None:
            last = record["recalls"][-1]
            name = f"recall@10 after ten rounds that each replace 20 % of the images, {_number(images)}"
            row(name, f"{last:.4f}", "≥ 0.98", last >= 0.98)
    return "### Against the targets\n\n" + _table(("", "measured", "target", ""), rows)


def filtered(searches: dict[tuple[str, int], Record]) -> str:
    """Return the table of filtered searches."""
    rows = []
    for way, images in (("exact", 10_000), ("hnsw", 10_000), ("exact", 20_000), ("hnsw", 100_000)):
        for result in searches.get((way, images), {}).get("filters", ()):
            rows.append(
                (
                    f"{way}, {_number(images)}",
                    f"{result['share']:.0%}",
                    str(result["kept"]),
                    str(result["fewest"]),
                    f"{result['recall']:.4f}",
                    _spread(result["p50_ms"]),
                    _spread(result["cpu_p50_ms"]),
                )
            )
    head = ("", "filter keeps", "images kept", "fewest found of 10", "recall@10", "p50 ms", "CPU p50 ms")
    return "### Under filters\n\n" + _table(head, rows)


def churned(searches: dict[tuple[str, int], Record]) -> str:
    """Return the table of recall after each round of deleting and adding."""
    rows = []
    for images in (10_000, 100_000):
        if (record := searches.get(("churn", images))) is not None:
            name = _number(images)
            rows.append((f"{name}: recall@10", *(f"{recall:.4f}" for recall in record["recalls"])))
            rows.append((f"{name}: dead nodes then", *(str(nodes) for nodes in record["dead"])))
    head = ("after round", *(str(number) for number in range(1, 11)))
    return "### Deleting and adding again, 20 % a round\n\n" + _table(head, rows)


def edited_copies(measured: Record) -> str:
    """Return the table of edited copies whose nearest image is their original."""
    rows = []
    for model, first in measured["found_first"].items():
        total = sum(first.values())
        queries = len(EDITS) * measured["pictures"]
        low, high = wilson(total, queries)
        counts = (f"{first[edit] / measured['pictures']:.3f}" for edit in EDITS)
        rows.append((model, *counts, f"**{total / queries:.3f}** ({low:.3f} to {high:.3f})"))
    return f"### Edited copies: recall@1 of the original among {PICTURES}\n\n" + _table(
        ("", *EDITS, "all (95 % Wilson)"), rows
    )


def rules(measured: Record) -> str:
    """Return the table of how many images each rule marks as near."""
    rows = []
    for rule in rule_rows(measured["rules"]):
        cells = (
            f"≤ {rule.bits}",
            f"≥ {rule.cosine:g}",
            *(str(rule.copies[edit]) for edit in EDITS),
            str(rule.others),
            f"{rule.garments / rule.garment_pairs * 1e6:.1f}",
            f"{rule.garments_asked:.1%}",
        )
        rows.append(tuple(f"**{cell}**" for cell in cells) if rule.chosen else cells)
    first = rule_rows(measured["rules"])[0]
    head = (
        "hash bits",
        "cosine",
        *EDITS,
        f"other pictures, of {first.other_pairs} pairs",
        "garments, per million pairs",
        "test garments with any near image",
    )
    return f"### Marked as near: of {PICTURES} copies per edit, and false positives\n\n" + _table(head, rows)


def _number(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _spread(rounds: Sequence[float]) -> str:
    return f"{statistics.median(rounds):.2f} ({min(rounds):.2f} to {max(rounds):.2f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"
