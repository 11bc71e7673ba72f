"""Benchmark of the similarity search: against its targets and other libraries, on real embeddings.

    .venv-bench/bin/python -m benchmarks.retrieval embed [--seconds 60]  # 101 000 images; run again to resume
    .venv-bench/bin/python -m benchmarks.retrieval search [--only hnsw]  # measured searches are not repeated
    .venv-bench/bin/python -m benchmarks.retrieval edited                # edited copies, and near duplicates
    .venv-bench/bin/python -m benchmarks.retrieval precision NAME [--zoo FOLDER] [--write-card]
    .venv-bench/bin/python -m benchmarks.retrieval page                  # writes docs/retrieval.md's tables

`make bench-retrieval` runs all commands except `precision`. The benchmark needs `make photos` and
`make fashion`, 4 GB of memory and 2 GB of disk space in .cache. Each search method is measured in a separate
process. Results are appended to benchmarks/retrieval/results.jsonl, which is committed with the page. Run it
on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.report import machine
from benchmarks.results import Results
from benchmarks.retrieval import edited, near, page, precision
from benchmarks.retrieval.corpus import CACHE, MissingDataError
from benchmarks.retrieval.rivals import RIVALS
from benchmarks.retrieval.vectors import MODEL, embed
from models.zoo.files import NETWORKS
from service.inference.registry import Registry

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results.jsonl"
WORK = CACHE / "retrieval"
SEARCHES = (
    ("exact", 10_000),
    ("build", 10_000),
    ("hnsw", 10_000),
    *((rival, 10_000) for rival in RIVALS),
    ("exact", 20_000),
    ("no index", 100_000),
    ("build", 100_000),
    ("hnsw", 100_000),
    *((rival, 100_000) for rival in RIVALS),
    ("churn", 10_000),
    ("churn", 100_000),
)
EDITED_WITH = (
    "efficientnet-lite0",
    "efficientnet-lite0-int8",
    "efficientnet-lite1-int8",
    "efficientnet-lite2-int8",
)


def main() -> None:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("embed", "search", "edited", "precision", "page"))
    parser.add_argument("name", nargs="?", help="precision: model of the zoo")
    parser.add_argument("--zoo", type=Path, default=NETWORKS, help="precision: folder of models")
    parser.add_argument("--write-card", action="store_true", help="precision: write it into the model's card")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="embed: stop after this time")
    parser.add_argument("--only", help="search: only this method")
    parser.add_argument("--count", type=int, help="search: only this size of the gallery")
    parser.add_argument("--again", action="store_true", help="search: repeat measured searches")
    arguments = parser.parse_args()
    results = Results(RESULTS)
    try:
        if arguments.command == "embed":
            embed(arguments.seconds)
        elif arguments.command == "search":
            measure_searches(results, arguments.only, arguments.count, arguments.again)
        elif arguments.command == "edited":
            measure_edited(results)
        elif arguments.command == "precision":
            if arguments.name is None:
                parser.error("precision: name of a model missing")
            measure_precision(arguments.zoo / arguments.name, arguments.write_card)
        elif not results.of("search"):
            sys.exit(f"{RESULTS.name}: no searches; run: python -m benchmarks.retrieval search")
        else:
            page.write(results)
    except (MissingDataError, TimeoutError, FileNotFoundError) as error:
        sys.exit(str(error))


def measure_searches(results: Results, only: str | None, count: int | None, again: bool) -> None:
    """Measure every search method that is not in the results yet. If `again`, measure all methods."""
    embed()
    done = {(record["way"], record["images"]) for record in results.of("search")}
    for way, images in SEARCHES:
        if only not in (None, way) or count not in (None, images) or ((way, images) in done and not again):
            continue
        folder = WORK / (f"churn-{images}" if way == "churn" else str(images))
        process = subprocess.run(
            [sys.executable, "-m", "benchmarks.retrieval.worker", way, str(images), str(folder)],
            stdout=subprocess.PIPE,
            check=False,
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        if process.returncode:
            print(f"{way}, {images}: exit code {process.returncode}", file=sys.stderr)
            continue
        figures = json.loads(process.stdout)
        results.append(
            "search",
            way=way,
            images=images,
            at=time.time(),
            machine=machine(),
            load=os.getloadavg(),
            **figures,
        )
        print(way, images, json.dumps(figures))


def measure_edited(results: Results) -> None:
    """Search for edited copies, and evaluate rules for near duplicates."""
    garments, _ = embed()
    registry = Registry((NETWORKS,), MODEL)
    registry.load()
    models = [registry.get(name) for name in EDITED_WITH]
    originals = edited.pictures()
    copies = {edit: edited.features(images, models) for edit, images in edited.edited(originals).items()}
    stored = edited.features(originals, models)
    first = {
        model.name: {
            edit: edited.found_first(copy.embeddings[model.name], stored.embeddings[model.name])
            for edit, copy in copies.items()
        }
        for model in models
    }
    results.append(
        "edited",
        at=time.time(),
        pictures=len(originals),
        found_first=first,
        rules=near.evaluate_rules(stored, copies, MODEL, garments),
    )
    print(json.dumps(first, indent=2))


def measure_precision(folder: Path, write_card: bool) -> None:
    """Print a network's precision at ten by class. If `write_card`, also write it into the network's card."""
    result = precision.precision(folder)
    print(result.model_dump_json(indent=2))
    if write_card:
        precision.write_to_card(folder, result)


if __name__ == "__main__":
    main()
