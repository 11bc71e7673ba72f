"""The result of a gate as data: outcome, figures and a sentence for each check."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Literal, Self, get_args

from pydantic import AwareDatetime, Field

from models.zoo.card import Sha256
from models.zoo.display import counted, without_surrogates
from models.zoo.frozen import Finite
from models.zoo.machine import this_machine
from service.cli.gate.decision import AccuracyJudgement, LatencyJudgement, Limits, Outcome, overall
from service.cli.gate.subjects import Kind, Source, Subject

EXIT_CODES: dict[Outcome, Literal[0, 1, 2]] = {"pass": 0, "fail": 1, "undecided": 2}
CheckName = Literal["latency", "accuracy", "control"]
CHECKS: tuple[CheckName, ...] = get_args(CheckName)
NOT_REACHED = "not reached"
"""Text of a check that was not made, because an error occurred before."""
Status = Literal["passed", "failed", "undecided", "skipped"]

_STATUS: dict[Outcome, Status] = {"pass": "passed", "fail": "failed", "undecided": "undecided"}
_WORDS: dict[Outcome, str] = {"pass": "pass", "fail": "fail", "undecided": "cannot say"}
_WHERE: dict[Outcome, str] = {
    "pass": "wholly within the limit of",
    "fail": "wholly beyond the limit of",
    "undecided": "on both sides of the limit of",
}


class Check(Finite):
    """One of the gate's checks, with its result."""

    name: CheckName
    status: Status = Field(description="skipped: the check was not made, or was not needed")
    sentence: str


class GatedModel(Finite):
    """One of the two networks."""

    given: str = Field(description="The network as the option names it")
    kind: Kind = Field(description="model: of the zoo; folder: has a card; file: an ONNX file without a card")
    sha256: Sha256 | None = Field(description="SHA-256 of the ONNX file that ran; null if it was not read")
    bytes: int | None = Field(description="Size of the ONNX file")
    notes: list[str] = Field(description="What is assumed about the network, and changes made to serve it")

    @classmethod
    def of(cls, source: Source, subject: Subject | None) -> Self:
        """Describe one network for the document. `subject` is None if the network cannot be used."""
        file = None if subject is None else subject.card.file
        return cls(
            given=without_surrogates(source.given),
            kind=source.kind,
            sha256=None if file is None else file.sha256,
            bytes=None if file is None else file.bytes,
            notes=[] if subject is None else list(map(without_surrogates, subject.notes)),
        )


class LatencyFigures(Finite):
    """Time of the new network divided by that of the base: above 1 is slower."""

    ratio: float = Field(gt=0)
    low: float | None = Field(description="Sequential 95 % interval of `ratio`; null before three launches")
    high: float | None
    launches: int = Field(ge=1, description="Processes, each of which gives one independent value")
    rounds: int = Field(ge=1, description="Rounds of all launches")
    control_ratio: float = Field(
        gt=0, description="Time of the base's second measurement divided by that of its first"
    )
    control_low: float | None
    control_high: float | None
    base_ms: float = Field(gt=0, description="Median of the rounds' medians of one run of the base")
    new_ms: float = Field(gt=0, description="Median of the rounds' medians of one run of the new network")
    void: bool = Field(
        description="Whether the base's two measurements differ, so that no latency can be believed"
    )
    further_launches: int | None = Field(description="Estimate of the launches that a decision still needs")

    @classmethod
    def of(cls, judgement: LatencyJudgement, base_ms: float, new_ms: float) -> Self:
        """Describe the latency for the document.

        `base_ms` and `new_ms` are the median latencies of the networks.
        """
        names = cls.model_fields.keys() - {"base_ms", "new_ms"}
        figures = {name: getattr(judgement, name) for name in names}
        return cls(base_ms=base_ms, new_ms=new_ms, **figures)


class AccuracyFigures(Finite):
    """Accuracy on the same pictures: top-1 of classifiers, average precision of detectors; shares, 0 to 1."""

    data: str = Field(description="Name of the data set")
    n: int = Field(ge=1, description="Pictures that count")
    pictures: int = Field(ge=1, description="Pictures of the data set; the notes say why some do not count")
    base: float = Field(ge=0, le=1, description="Accuracy of the base")
    new: float = Field(ge=0, le=1, description="Accuracy of the new network")
    loss: float = Field(description="Accuracy of the base minus that of the new network")
    low: float = Field(description="95 % interval of `loss`")
    high: float
    only_base: int | None = Field(description="Pictures that only the base gets right; null for detectors")
    only_new: int | None
    pictures_needed: int | None = Field(description="Estimate of the pictures that a decision needs")

    @classmethod
    def of(cls, data: str, pictures: int, base: float, new: float, judgement: AccuracyJudgement) -> Self:
        """Describe the accuracy on the data set `data` for the document.

        `pictures` is the number of pictures of the data set. `base` and `new` are the accuracies of the
        networks as shares.
        """
        names = cls.model_fields.keys() - {"data", "pictures", "base", "new"}
        figures = {name: getattr(judgement, name) for name in names}
        return cls(data=without_surrogates(data), pictures=pictures, base=base, new=new, **figures)


class GateLimits(Finite):
    """Limits of the gate."""

    max_slower: float = Field(description="Largest slowdown, 0.03 is 3 %")
    max_loss: float = Field(description="Largest loss of accuracy as a share, 0.005 is half a point")
    time_limit_s: float


class GateResult(Finite):
    """Result of a gate, as `weighin gate --json FILE` writes it."""

    outcome: Outcome
    exit_code: Literal[0, 1, 2] = Field(description="0: pass; 1: fail; 2: cannot say")
    sentence: str = Field(description="The outcome with its reason, one line")
    checks: list[Check]
    limits: GateLimits | None = Field(description="null if the gate did not begin, because of a wrong option")
    base: GatedModel | None = Field(description="null if the network was not found")
    new: GatedModel | None
    latency: LatencyFigures | None = Field(description="null if latency was not measured")
    accuracy: AccuracyFigures | None
    notes: list[str] = Field(description="Disturbances of the machine, and pictures that do not count")
    machine: str
    weighin: str = Field(description="Version")
    started_at: AwareDatetime
    seconds: float = Field(ge=0)


def latency_checks(
    judgement: LatencyJudgement, base_ms: float, new_ms: float, limits: Limits, ended: str, launch_s: float
) -> list[Check]:
    """Return two checks: one of the latency, and one of the control.

    The control check tells whether the two measurements of the base agree. `base_ms` and `new_ms` are the
    median latencies of the networks. `ended` says in words why measuring ended; it is used if there is no
    decision. `launch_s` is the mean number of seconds of a launch.
    """
    launches = counted(judgement.launches, "launch", "launches")
    figure = f"{_change(judgement.ratio, judgement.low, judgement.high)} in {launches}"
    again = _change(judgement.control_ratio, judgement.control_low, judgement.control_high)
    if judgement.void:
        void = "void, because the base measured twice differs from itself"
        differs = f"the base measured twice differs from itself by {again}; {ended}; {judgement.needs}"
        return [
            Check(name="latency", status="undecided", sentence=f"{figure}, {void}"),
            Check(name="control", status="undecided", sentence=differs),
        ]
    if judgement.control_low is None:
        control = Check(
            name="control",
            status="undecided",
            sentence=f"the base measured twice differs by {again} in {launches}, too few for an interval",
        )
    else:
        control = Check(
            name="control", status="passed", sentence=f"the base measured twice differs by {again}"
        )
    where = "too few for an interval; limit" if judgement.low is None else _WHERE[judgement.outcome]
    sentence = f"{figure}, {where} {100 * limits.max_slower:+g}% (base {base_ms:.3g} ms, new {new_ms:.3g} ms)"
    if judgement.outcome == "undecided":
        sentence += f"; {ended}; {judgement.needs}"
        if judgement.further_launches is not None:
            sentence += f", {judgement.further_launches * launch_s:.0f} s"
    return [Check(name="latency", status=_STATUS[judgement.outcome], sentence=sentence), control]


def accuracy_check(
    judgement: AccuracyJudgement, base: float, new: float, given: int, limits: Limits
) -> Check:
    """Return the check of accuracy.

    `base` and `new` are the accuracies of the networks. `given` is the number of pictures of the data set,
    including pictures that do not count.
    """
    loss, low, high = (100 * value for value in (judgement.loss, judgement.low, judgement.high))
    pictures = f"{judgement.n} of {counted(given, 'picture', 'pictures')}"
    sentence = (
        f"loss {loss:+.2f} points [{low:+.2f}, {high:+.2f}] on {pictures} (base {base:.2%}, new {new:.2%}"
    )
    if judgement.only_base is not None:
        sentence += f"; {judgement.only_base} right in base only, {judgement.only_new} in new only"
    sentence += f"), {_WHERE[judgement.outcome]} {100 * limits.max_loss:g} points"
    if judgement.outcome == "undecided":
        sentence += f"; {judgement.needs}"
    return Check(name="accuracy", status=_STATUS[judgement.outcome], sentence=sentence)


def conclude(checks: Sequence[Check]) -> tuple[Outcome, str]:
    """Return the outcome that the checks give together, and a line that states it with its reasons.

    If all checks are skipped, the outcome is undecided.
    """
    of_status: dict[Status, Outcome] = {"passed": "pass", "failed": "fail", "undecided": "undecided"}
    outcome = overall([of_status[check.status] for check in checks if check.status != "skipped"])
    decisive = [check for check in checks if check.status == _STATUS[outcome]]
    reasons = [
        f"{check.name} {check.sentence}"
        for check in decisive
        if (check.name, check.status) != ("control", "passed")
    ]
    if outcome == "pass":
        unasked = [each for each in checks if each.status == "skipped"]
        reasons += [f"{each.name} not compared: {each.sentence}" for each in unasked]
    return outcome, with_outcome(outcome, "; ".join(reasons))


def with_outcome(outcome: Outcome, reason: str) -> str:
    """Return a sentence that states the outcome in words and then the reason."""
    return f"{_WORDS[outcome]}: {reason}"


def nothing_asked(result: GateResult) -> bool:
    """Return whether the gate passes only because there was nothing to compare or to measure."""
    return result.outcome == "pass" and all(check.status == "skipped" for check in result.checks)


def unreported(result: GateResult) -> GateResult:
    """Return the result of a gate that passes, but whose reports could not all be written.

    Its outcome is changed to undecided.
    """
    sentence = with_outcome("undecided", "it would pass, but not every report could be written")
    changes = {"outcome": "undecided", "exit_code": EXIT_CODES["undecided"], "sentence": sentence}
    return result.model_copy(update=changes)


def not_begun(words: str) -> GateResult:
    """Return the result of a gate that could not begin. `words` are the reason."""
    first, *others = CHECKS
    words = without_surrogates(words)
    return GateResult(
        outcome="undecided",
        exit_code=EXIT_CODES["undecided"],
        sentence=with_outcome("undecided", words),
        checks=[
            Check(name=first, status="undecided", sentence=words),
            *(Check(name=name, status="skipped", sentence=NOT_REACHED) for name in others),
        ],
        limits=None,
        base=None,
        new=None,
        latency=None,
        accuracy=None,
        notes=[],
        machine=this_machine().cpu,
        weighin=version("weighin"),
        started_at=datetime.now(UTC),
        seconds=0.0,
    )


def _change(ratio: float, low: float | None, high: float | None) -> str:
    interval = "" if low is None or high is None else f" [{low - 1:+.1%}, {high - 1:+.1%}]"
    return f"{ratio - 1:+.1%}{interval}"
