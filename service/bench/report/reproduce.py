"""The commands that reproduce a report."""

from __future__ import annotations

import shlex

from models.zoo.display import shown
from service.bench.bundle import Bundle
from service.bench.measure.plan import PROFILES
from service.bench.recommend.evidence import StoredBundle
from service.bench.report.caveats import same_model
from service.bench.report.document import Step
from service.evaluation.result import Evaluation

BUNDLE = "bench.json"
"""Name of the file of the benchmark in the commands that reproduce a report."""


def steps(stored: StoredBundle, evaluation: Evaluation | None) -> tuple[Step, ...]:
    """Return the commands that measure, evaluate and make the report.

    Paths and addresses that are unknown are words in capitals, such as PHOTO.
    """
    made = [Step(what="Measure latency", command=bench_command(stored.bundle))]
    report = f"weighin report --bench {BUNDLE}"
    if evaluation is not None:
        made.append(Step(what="Evaluate accuracy", command=evaluate_command(stored.bundle, evaluation)))
        report += f" --data {evaluation.id}"
    return (*made, Step(what="Make this report", command=f"{report} --html report.html"))


def bench_command(bundle: Bundle) -> str:
    """Return the `weighin bench` command that repeats the measurement on any machine."""
    configuration = bundle.configuration
    server = configuration.scenario == "server"
    usual = PROFILES[configuration.profile]
    options = ["--models", ",".join(facts.name for facts in bundle.models)]
    options += ["--profile", configuration.profile, "--scenario", configuration.scenario]
    options += ["--baseline", bundle.entry(configuration.baseline).model]
    runtimes = list(dict.fromkeys(entry.runtime for entry in bundle.entries if entry.via == "session"))
    if runtimes != ["onnxruntime"]:
        options += ["--runtime", ",".join(runtimes)]
    threads = sorted({entry.threads for entry in bundle.entries if entry.via == "session"})
    if threads != [1]:
        options += ["--threads", ",".join(map(str, threads))]
    if configuration.launches != (usual.server_launches if server else usual.launches):
        options += ["--launches", str(configuration.launches)]
    if not server and configuration.rounds != usual.rounds:
        options += ["--rounds", str(configuration.rounds)]
    if (configuration.block_runs, configuration.block_s) != (usual.block_runs, usual.block_s):
        options += ["--runs", str(configuration.block_runs)]
    if configuration.budget_ms is not None:
        options += ["--budget-ms", f"{configuration.budget_ms:g}"]
    if configuration.inputs.kind == "photos":
        options += ["--input", "PHOTO"] * configuration.inputs.count
    if configuration.http:
        options += ["--http", "URL"]
    options += ["--seed", str(configuration.seed), "--json", BUNDLE]
    return shlex.join(["weighin", "bench", *options])


def evaluate_command(bundle: Bundle, evaluation: Evaluation) -> str:
    """Return the `weighin evaluate` command that repeats the evaluation.

    It names the data by the last part of their path, because the rest is unknown.
    """
    names = [facts.name for facts in bundle.models if same_model(evaluation, facts) is not None]
    options = ["--data", shown(evaluation.data.name)]
    if names:
        options += ["--models", ",".join(names)]
    if any(model.corruptions is not None for model in evaluation.models):
        options.append("--corrupt")
    return shlex.join(["weighin", "evaluate", *options])
