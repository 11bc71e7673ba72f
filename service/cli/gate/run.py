"""Run a gate.

It finds both networks, checks that one can replace the other, and measures until the outcome is decided.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import structlog

from models.zoo.display import joined, shown, without_surrogates
from models.zoo.machine import this_machine
from service.cli.gate.decision import MAX_LAUNCHES, Limits, Outcome
from service.cli.gate.inputs import Inputs
from service.cli.gate.measure import Show, Unfinished, Unmatched, measure_accuracy, measure_latency
from service.cli.gate.result import (
    CHECKS,
    EXIT_CODES,
    NOT_REACHED,
    AccuracyFigures,
    Check,
    CheckName,
    GatedModel,
    GateLimits,
    GateResult,
    LatencyFigures,
    accuracy_check,
    conclude,
    latency_checks,
    with_outcome,
)
from service.cli.gate.subjects import (
    Role,
    Source,
    Subject,
    check_alike,
    compare_doubts,
    find,
    identical,
    place,
    same_source,
)
from service.errors import InvalidParameter, MeasurementFailed, WeighinError, error_words
from service.evaluation.choose import choose
from service.evaluation.classes import mapping_for
from service.evaluation.readers.read import read_dataset
from service.inference.registry import Registry

ACCURACY_SHARE = 0.7
"""Share of the time limit that the evaluation of accuracy may take; the rest is for latency."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Request(Inputs):
    """What to compare, and with which limits.

    `base` and `new` are names of models, folders or ONNX files. `data` are labelled pictures, or None.
    `mapping` is a file that maps the classes of `data` to labels. `images` is the folder to which the paths
    in `data` are relative.
    """

    limits: Limits = field(default_factory=Limits)
    time_limit_s: float = 300.0


class Gate:
    """An object stands for one run of the gate."""

    def __init__(
        self,
        request: Request,
        registry: Callable[[], Registry],
        *,
        threads: int,
        max_pixels: int,
        stop: threading.Event,
        show: Show,
    ) -> None:
        """Prepare the run.

        `registry` returns the models that `base` and `new` can name. `threads` is the number of threads of
        the evaluation. `max_pixels` is the maximum size of a picture. Set `stop` to end the run soon.
        """
        self._request = request
        self._registry = registry
        self._threads = threads
        self._max_pixels = max_pixels
        self._stop = stop
        self._show = show
        self._late = False
        self._start = time.monotonic()
        self._sources: dict[Role, Source] = {}
        self._subjects: dict[Role, Subject] = {}
        self._checks: dict[CheckName, Check] = {}
        self._asking: CheckName | None = None
        self._latency: LatencyFigures | None = None
        self._accuracy: AccuracyFigures | None = None
        self._notes: list[str] = []

    def run(self) -> GateResult:
        """Run the gate and return its result. If something cannot be compared, the result says why.

        No child process remains after this call.
        """
        started_at, self._start = datetime.now(UTC), time.monotonic()
        outcome: Outcome = "undecided"
        limit = threading.Timer(self._request.time_limit_s, self._end_late)
        limit.daemon = True
        limit.start()
        try:
            with tempfile.TemporaryDirectory(prefix="weighin-gate-", ignore_cleanup_errors=True) as folder:
                nothing_to_do = self._compare(Path(folder))
        except (WeighinError, OSError) as error:
            words = error.detail if isinstance(error, WeighinError) else _words(error)
            sentence = self._cannot_say(words)
        except Exception as error:  # an error in the gate itself must not pass, either
            _log.exception("the gate ended early")
            sentence = self._cannot_say(f"unexpected {type(error).__name__}")
        else:
            if nothing_to_do is None:
                outcome, sentence = conclude(list(self._checks.values()))
            else:
                self._skip(nothing_to_do)
                done = "compared" if "base" not in self._sources else "measured"
                outcome, sentence = "pass", f"pass (nothing {done}): {nothing_to_do}"
        finally:
            limit.cancel()
        request = self._request
        return GateResult(
            outcome=outcome,
            exit_code=EXIT_CODES[outcome],
            sentence=sentence,
            checks=[self._checks[name] for name in CHECKS],
            limits=GateLimits(
                max_slower=request.limits.max_slower,
                max_loss=request.limits.max_loss,
                time_limit_s=request.time_limit_s,
            ),
            base=self._gated("base"),
            new=self._gated("new"),
            latency=self._latency,
            accuracy=self._accuracy,
            notes=list(map(without_surrogates, self._notes)),
            machine=this_machine().cpu,
            weighin=version("weighin"),
            started_at=started_at,
            seconds=round(time.monotonic() - self._start, 3),
        )

    @property
    def _interrupted(self) -> bool:
        return self._stop.is_set() and not self._late

    def _end_late(self) -> None:
        if not self._stop.is_set():  # if it is set, a signal came first
            self._late = True
            self._stop.set()

    def _compare(self, folder: Path) -> str | None:
        """Compare the networks, with a folder for temporary files.

        Return None if they were compared. If there is nothing to compare, return the reason.
        """
        self._show("reading both networks", 0.0)
        zoo = folder / "zoo"
        zoo.mkdir()
        new = self._find("new")
        if new is None:
            raise InvalidParameter(f"--new {shown(self._request.new)}: no such file or folder")
        base = self._find("base")
        if base is not None and same_source(base, new):
            raise InvalidParameter(f"--base and --new: both are {shown(new.given)} (allowed: two networks)")
        self._place(new, zoo)
        if base is not None:
            self._place(base, zoo)
        if self._interrupted:
            raise MeasurementFailed("it was interrupted")
        if base is None:
            self._check_data(Registry([zoo], "new"))
            return f"first run: there is no base at {shown(self._request.base)}, so nothing was compared"
        self._subjects["new"] = check_alike(self._subjects["base"], self._subjects["new"])
        if identical(self._subjects["base"], self._subjects["new"]):
            self._check_data(Registry([zoo], "new"))
            return (
                "both files are identical, with the same inputs, outputs and labels, so nothing was measured"
            )
        both = Registry([zoo], "base")
        self._judge_accuracy(both, folder / "evaluation")
        if self._checks["accuracy"].status == "failed":
            self._skip("not measured, because the accuracy decides")
        elif self._interrupted:
            self._skip("not measured, because it was interrupted")
        else:
            with self._books("latency"):
                self._judge_latency(both)
        return None

    def _find(self, role: Role) -> Source | None:
        given = self._request.base if role == "base" else self._request.new
        source = find(role, given, self._registry)
        if source is not None:
            self._sources[role] = source
        return source

    def _place(self, source: Source, zoo: Path) -> None:
        self._subjects[source.role] = place(source, zoo)

    def _check_data(self, zoo: Registry) -> None:
        """Raise an error if the pictures do not fit the new network.

        A run that measures nothing, because there is no base or both files are identical, does not use the
        pictures. It still calls this method, so that wrong options for the pictures are reported.
        """
        request = self._request
        if request.data is None:
            return
        with self._books("accuracy"):
            dataset = read_dataset(request.data, request.images)
            choose(zoo, dataset, mapping_for(request.mapping, dataset.name, dataset.class_names), ("new",))

    @contextlib.contextmanager
    def _books(self, name: CheckName) -> Iterator[None]:
        """Attribute an error inside this context manager to the check `name`."""
        self._asking = name
        yield
        self._asking = None

    def _judge_accuracy(self, zoo: Registry, scratch: Path) -> None:
        if self._request.data is None:
            self._skip("no --data is given", "accuracy")
            return
        doubts = compare_doubts(self._subjects["base"], self._subjects["new"])
        if doubts.unlike is not None:
            self._undecided("accuracy", f"is not judged, {doubts.unlike}")
            return
        self._notes += doubts.notes
        with self._books("accuracy"):
            self._evaluate(zoo, self._request.data, scratch)

    def _evaluate(self, zoo: Registry, data: Path, scratch: Path) -> None:
        request = self._request
        evaluated = measure_accuracy(
            zoo,
            data,
            request.mapping,
            request.images,
            request.limits.max_loss,
            scratch=scratch,
            threads=self._threads,
            max_pixels=self._max_pixels,
            until=self._start + ACCURACY_SHARE * request.time_limit_s,
            stop=self._stop,
            show=self._show,
        )
        if isinstance(evaluated, Unfinished):
            self._undecided("accuracy", f"is not known, {self._unfinished(evaluated)}")
            return
        if isinstance(evaluated, Unmatched):
            self._undecided("accuracy", f"is not judged, {evaluated.reason}")
            return
        judgement, both = evaluated.judgement, (evaluated.base, evaluated.new)
        self._accuracy = AccuracyFigures.of(evaluated.data, evaluated.pictures, *both, judgement)
        self._notes += evaluated.notes
        self._checks["accuracy"] = accuracy_check(judgement, *both, evaluated.pictures, request.limits)

    def _unfinished(self, evaluated: Unfinished) -> str:
        """Return in words why not all pictures were evaluated, and which time limit would be enough."""
        words = f"only {evaluated.done} of {evaluated.total} pictures were evaluated: "
        if self._interrupted:
            return words + self._ended()
        before_s = time.monotonic() - self._start - evaluated.seconds
        all_s = evaluated.seconds * evaluated.total / max(1, evaluated.done)
        limit_s = math.ceil((before_s + all_s) / ACCURACY_SHARE)
        return (
            f"{words}the share of the time limit for accuracy, {ACCURACY_SHARE:.0%}, is over; all would take "
            f"about {all_s:.0f} s, so give about --time-limit {limit_s}s"
        )

    def _undecided(self, name: CheckName, sentence: str) -> None:
        self._checks[name] = Check(name=name, status="undecided", sentence=sentence)

    def _judge_latency(self, zoo: Registry) -> None:
        limits = self._request.limits
        start = time.monotonic()
        measured = measure_latency(zoo, limits.max_slower, self._stop, self._show)
        judgement = measured.judgement
        if measured.disturbances:
            self._notes.append(f"the machine was not quiet: {joined(measured.disturbances)}")
        if judgement is None or measured.base_ms is None or measured.new_ms is None:
            needs = "" if self._interrupted else f"; {measured.needs}"
            self._undecided("latency", f"is not known, no launch was completed: {self._ended()}{needs}")
            self._skip("no launch was completed")
            return
        both = measured.base_ms, measured.new_ms
        self._latency = LatencyFigures.of(judgement, *both)
        launch_s = (time.monotonic() - start) / judgement.launches
        for check in latency_checks(judgement, *both, limits, self._ended(), launch_s):
            self._checks[check.name] = check

    def _ended(self) -> str:
        """Return in words why measuring ended without a decision."""
        if self._late:
            return f"the time limit of {self._request.time_limit_s:g} s is over"
        return "it was interrupted" if self._interrupted else f"all {MAX_LAUNCHES} launches were made"

    def _cannot_say(self, words: str) -> str:
        """Make the current check undecided for the reason `words`. Return the sentence of the result.

        If no check is running, the first check that was not yet made becomes undecided. All further checks
        that were not made are skipped.
        """
        words = without_surrogates(words)
        unmade = [name for name in CHECKS if name not in self._checks]
        name = self._asking or (unmade[0] if unmade else "control")
        self._checks[name] = Check(name=name, status="undecided", sentence=words)
        self._skip(NOT_REACHED)
        return with_outcome("undecided", words)

    def _skip(self, reason: str, *names: CheckName) -> None:
        """Mark checks as skipped if they were not yet made.

        If `names` are given, only these checks are marked.
        """
        for name in names or CHECKS:
            self._checks.setdefault(name, Check(name=name, status="skipped", sentence=reason))

    def _gated(self, role: Role) -> GatedModel | None:
        source, subject = self._sources.get(role), self._subjects.get(role)
        return None if source is None else GatedModel.of(source, subject)


def _words(error: OSError) -> str:
    return f"{error}" if isinstance(error, FileNotFoundError) and not error.strerror else error_words(error)
