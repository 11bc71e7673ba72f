"""`python -m tests.fuzz`: run inputs on all cores, show progress, list findings; docs/fuzzing.md."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from tests.fuzz.seeds import CACHE, load_seeds
from tests.fuzz.worker import OUTCOMES, Progress, Worker, environment

_EVERY_S = 5.0
_SHOWN = 4


def main() -> int:
    """Run the command line; return 0 without findings, 1 with findings, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="number of inputs (default: 100000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the inputs (default: 1)")
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: one per core)"
    )
    parser.add_argument("--only", type=int, metavar="INDEX", help="run one input and save it as a file")
    parser.add_argument(
        "--folder", type=Path, default=CACHE, help=f"folder of findings and progress (default: {CACHE})"
    )
    arguments = parser.parse_args()
    if arguments.only is not None:
        return run_one(arguments.folder, arguments.seed, arguments.only)
    return run(arguments.folder, arguments.seed, arguments.inputs, arguments.workers)


def run_one(parent: Path, seed: int, index: int) -> int:
    """Run one input in a child, in the environment of a worker."""
    if os.environ.get("MALLOC_CHECK_") != "3":
        os.execve(sys.executable, [sys.executable, "-m", "tests.fuzz", *sys.argv[1:]], environment())
    folder = parent / "only" / f"{seed}-{index}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reason = Worker(folder, seed, 0, 1, 1).run_one(index)
    print(f"input {index} of seed {seed} is in {folder / 'current-0'}")
    print(reason or "no finding")
    return 1 if reason else 0


def _identity(seed: int, inputs: int, workers: int) -> str:
    """Return everything that a run depends on; a run with another identity starts from the first input."""
    digest = hashlib.sha256()
    for folder in ("service", "models/zoo", "tests/fuzz"):
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(path.read_bytes())
    libraries = {name: version(name) for name in ("pillow", "simplejpeg", "python-multipart", "pydantic")}
    return json.dumps([seed, inputs, workers, libraries, digest.hexdigest()])


def run(parent: Path, seed: int, inputs: int, workers: int) -> int:
    """Run inputs 0 to `inputs` of a seed, or resume the same run if it was interrupted."""
    folder = parent / f"run-{seed}"
    identity = folder / "run.json"
    if identity.exists() and identity.read_text() == _identity(seed, inputs, workers):
        print("resuming the last run")
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        identity.write_text(_identity(seed, inputs, workers))
    load_seeds()  # fills the cache once, before the workers read it
    progress = [Progress(folder / f"progress-{number}", number) for number in range(workers)]
    variables = environment()
    started, done_before = time.monotonic(), sum(worker.done for worker in progress)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", *map(str, (folder, seed, number, workers, inputs))],
            env=variables,
        )
        for number in range(workers)
    ]
    try:
        shown = started
        while any(process.poll() is None for process in processes):
            time.sleep(0.1)
            if time.monotonic() - shown >= _EVERY_S:
                shown = time.monotonic()
                _show(progress, inputs, done_before, shown - started)
    except KeyboardInterrupt:
        print("\nstopped; run the same command to resume")
        return 130
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait()
    return _report(folder, progress, processes, inputs, time.monotonic() - started)


def _show(progress: list[Progress], inputs: int, done_before: int, seconds: float) -> None:
    done = sum(worker.done for worker in progress)
    rate = (done - done_before) / seconds
    remaining = f"{(inputs - done) / rate:.0f} s left" if rate else "starting"
    findings = sum(worker["finding"] for worker in progress)
    print(f"{done} of {inputs} inputs, {rate:.0f} per second, {remaining}, {findings} findings", flush=True)


def _report(
    folder: Path,
    progress: list[Progress],
    processes: list[subprocess.Popen[bytes]],
    inputs: int,
    seconds: float,
) -> int:
    """Print outcomes and findings; remove the identity, so that the same command starts a new run."""
    done = sum(worker.done for worker in progress)
    if done < inputs or any(process.returncode for process in processes):
        print(f"workers: ended early with exit codes {[process.returncode for process in processes]}")
        return 1
    (folder / "run.json").unlink()
    checked = all(worker["heap checked"] for worker in progress)
    calls = sum(worker["simplejpeg calls"] for worker in progress)
    print(f"{inputs} inputs in {seconds:.0f} s; {calls} decoded by simplejpeg into a guarded buffer")
    print(f"heap checks of glibc: {'active' if checked else 'unavailable'}")
    for outcome in OUTCOMES:
        print(f"{sum(worker[outcome] for worker in progress):8d} {outcome}")
    findings = [json.loads(path.read_text()) for path in sorted((folder / "findings").glob("*.json"))]
    by_kind: dict[str, list[dict[str, str]]] = {}
    for facts in findings:
        origin = facts["origin"].split()[0]
        by_kind.setdefault(f"{origin}: {_kind_of(facts['reason'])}", []).append(facts)
    for kind, members in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        print(f"\n{len(members)} x {kind}")
        for facts in members[:_SHOWN]:
            print(f"  {facts['again']}  # {facts['origin']}: {facts['reason'].splitlines()[0]}")
    if findings:
        print(f"\n{len(findings)} findings; reasons and inputs are in {folder / 'findings'}")
    return 1 if findings else 0


def _kind_of(reason: str) -> str:
    """Return the key by which findings are grouped: first line without numbers, error, source line."""
    lines = [line.strip() for line in reason.splitlines()]
    places = [re.sub(r".*/", "", line) for line in lines if line.startswith("File ")]
    place = next((line for line in places if not line.startswith(("guard.py", "checks.py"))), "")
    error = next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)), "")
    return " | ".join(part for part in (re.sub(r"\d+(\.\d+)?", "N", lines[0])[:120], error, place) if part)


if __name__ == "__main__":
    sys.exit(main())
