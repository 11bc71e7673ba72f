"""Weighing both runtimes: bounds, words, differences; and the whole of it where OpenVINO is installed."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.zoo.card import Card, Interval, read_card
from models.zoo.files import NETWORKS
from models.zoo.machine import this_machine
from models.zoo.statistics import binomial_cdf
from models.zoo.verdicts import MIN_DIFFERENCE
from service.bench.doctor.model import ModelUnderTest
from service.bench.doctor.running import RunSettings, faster_in_openvino
from service.bench.recommend.advice import advise_here
from service.bench.recommend.advice import this_machine as recommend_machine
from service.bench.recommend.recommend import Constraints, Recommendation
from service.inference.cpu import core_budget
from service.inference.detect import Found
from service.inference.registry import Registry
from service.inference.runtimes.base import RuntimeName
from service.inference.runtimes.choice import Requested, RuntimeChoices, Serving, runtime_choices
from service.inference.runtimes.weigher import (
    MORE_ROUNDS,
    PICTURES,
    ROUNDS,
    Difference,
    difference_of_objects,
    summary,
)
from service.inference.runtimes.weighing import Answers, Conditions, Weighing, is_faster, look
from service.settings import Settings
from tests.conftest import make_tiny_model
from tests.helpers.networks import end_in_scaler, put_file
from tests.helpers.until import until
from tests.service.conftest import running

CONDITIONS = Conditions(
    sha256="0" * 64, card="0" * 64, cpu="CPU", cpu_id="", instruction_set=(), cores=2, threads=2, options={},
    onnxruntime="1", openvino="2",
)  # fmt: skip
ANSWERS = Answers(pictures="32 of noise", n=32, same=31, deviation=0.2, limit=0.5)
INT8 = "fashion-inverted-residual-int8"
FLOAT = "fashion-inverted-residual"


def weighing(**facts: Any) -> Weighing:
    given = {
        "model": "m", "conditions": CONDITIONS, "floats": None, "precision": "bf16", "speedup": 1.8,
        "low": 1.7, "high": 1.9, "faster": True, "answers": ANSWERS, "at": datetime.now(UTC),
    }  # fmt: skip
    return Weighing(**(given | facts))


def inheriting(card: Card) -> Card:
    """The card with its accuracy as if it were the parent's."""
    assert card.accuracy is not None
    return card.model_copy(update={"accuracy": card.accuracy.model_copy(update={"kind": "inherited"})})


@pytest.mark.parametrize(
    ("same", "deviation", "agree"),
    [(32, 0.0, True), (31, 0.5, True), (30, 0.0, False), (32, 0.51, False), (0, 0.0, False)],
)
def test_bounds_of_agreement(same: int, deviation: float, agree: bool) -> None:
    answers = ANSWERS.model_copy(update={"same": same, "deviation": deviation})
    assert answers.agree is agree
    assert weighing(answers=answers).switches is agree
    assert weighing(answers=answers, faster=False).switches is False


def test_weighing_in_words() -> None:
    assert str(weighing()) == (
        "OpenVINO is faster: 1.80 times ONNX Runtime's speed (1.70 to 1.90); answers agree: 31 of 32 the "
        "same, typical deviation 0.2 (limit: 0.5)"
    )
    failed = weighing(answers=None, problem="OpenVINO: no such operator", faster=False)
    assert str(failed) == "cannot be weighed: OpenVINO: no such operator"
    slow = weighing(problem="a run takes longer than 1 s", faster=False)
    assert str(slow).startswith("not timed: a run takes longer than 1 s; answers agree: 31 of 32 the same")
    assert not failed.switches
    assert not slow.switches


def test_agreement_beside_an_inherited_accuracy() -> None:
    own = weighing().agreement(read_card(NETWORKS / FLOAT))
    assert own is not None
    assert (own.parent, own.value, own.n) == (FLOAT, 0.9688, 32)
    assert own.interval.low < 31 / 32 < own.interval.high
    assert "OpenVINO 2 in bf16 and ONNX Runtime 1 in fp32 on 32 of noise" in own.how
    # The accuracy of this int8 model is measured, so that of its own answers.
    measured = read_card(NETWORKS / INT8)
    assert measured.agreement is not None
    one = weighing().agreement(measured)
    assert one is not None
    assert (one.parent, one.value, one.interval) == (INT8, own.value, own.interval)
    # If it were its parent's, both disagreements would count.
    card = inheriting(measured)
    assert card.agreement is not None
    both = weighing().agreement(card)
    assert both is not None
    assert both.parent == card.agreement.parent
    assert both.value == pytest.approx(card.agreement.value - 1 / 32, abs=1e-4)
    assert both.interval.low < both.value
    assert weighing(answers=None).agreement(card) is None
    # bf16 changed more answers than int8, so it cannot have undone all of its own.
    least = card.agreement.interval.low - own.interval.high
    assert least > 0
    assert both.interval.high == pytest.approx(1 - least, abs=1e-4)


@pytest.mark.parametrize(
    ("first", "same", "low", "high"),
    [
        ((0.60, 0.70), 98, 0.53, 0.7699),  # 30 to 40 % differ, then 0.55 to 7 %
        ((0.99, 1.00), 50, 0.3938, 0.6062),  # 0 to 1 % differ, then 40 to 60 %
        ((0.90, 0.99), 98, 0.83, 1.0),
        ((0.10, 0.20), 10, 0.0, 1.0),
    ],
)
def test_bounds_of_agreement_in_two_steps(
    first: tuple[float, float], same: int, low: float, high: float
) -> None:
    card = inheriting(read_card(NETWORKS / INT8))
    assert card.agreement is not None
    interval = Interval(low=first[0], high=first[1])
    parent = card.agreement.model_copy(update={"value": sum(first) / 2, "n": 100, "interval": interval})
    answers = ANSWERS.model_copy(update={"n": 100, "same": same})
    both = weighing(answers=answers).agreement(card.model_copy(update={"agreement": parent}))
    assert both is not None
    assert (both.interval.low, both.interval.high) == pytest.approx((low, high), abs=2e-4)
    assert both.interval.low <= both.value <= both.interval.high


@pytest.mark.parametrize(
    ("name", "runtime", "precision", "kind"),
    [
        (FLOAT, "onnxruntime", "fp32", "measured"),
        (FLOAT, "openvino", "fp32", "measured"),
        (FLOAT, "openvino", "bf16", "inherited"),
        (INT8, "onnxruntime", "int8", "measured"),
        (INT8, "openvino", "int8", "inherited"),
        (INT8, "openvino", "int8+bf16", "inherited"),
        (INT8, "openvino", "fp32", "inherited"),
    ],
)
def test_accuracy_of_other_answers_is_inherited(
    name: str, runtime: RuntimeName, precision: str, kind: str
) -> None:
    """OpenVINO rounds an int8 network in other places than ONNX Runtime does."""
    card = read_card(NETWORKS / name)
    result = weighing(precision=precision)
    served = Serving(runtime, precision, result).card(card)
    assert card.accuracy is not None
    assert served.accuracy == card.accuracy.model_copy(update={"kind": kind})
    assert served.agreement == (card.agreement if kind == "measured" else result.agreement(card))
    unknown = Serving(runtime, precision)
    assert (unknown.card(card).accuracy is None) == (kind == "inherited")
    reason = (
        f"the answers of OpenVINO in {precision} have not been compared with those of ONNX Runtime in "
        f"{card.precision}"
    )
    assert unknown.unknown_accuracy(card) == (reason if kind == "inherited" else None)


def test_agreement_of_a_detector_is_of_objects() -> None:
    own = weighing().agreement(read_card(NETWORKS / "centerface"))
    assert own is not None
    assert own.how.startswith("objects of OpenVINO 2 in bf16 and ")


def found(label: str, score: float, left: float = 10) -> Found:
    return Found(0, label, score, (left, 10, left + 20, 30), ())


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        ([], [], (True, None)),
        ([found("Cat", 0.8)], [found("Cat", 0.75, 11)], (True, 0.05)),
        ([found("Cat", 0.8)], [found("Dog", 0.8)], (False, 0.0)),
        ([found("Cat", 0.8)], [], (False, None)),
        ([found("Cat", 0.8)], [found("Cat", 0.8, 200)], (False, None)),
        ([found("Cat", 0.8), found("Cat", 0.6, 99)], [found("Cat", 0.5, 99), found("Cat", 0.8)], (True, 0.1)),
    ],
)
def test_differences_of_objects(
    here: list[Found], there: list[Found], expected: tuple[bool, float | None]
) -> None:
    same, deviation = difference_of_objects(here, there)
    assert (same, deviation) == (expected[0], None if expected[1] is None else pytest.approx(expected[1]))


def test_gain_that_equal_sessions_may_show_is_none() -> None:
    """Rounds of one launch are alike, launches are not: one of two equal sessions may be 1 % faster."""
    steady = np.random.default_rng(0).normal(0, 0.001, ROUNDS)
    assert not is_faster(look(list(steady + 0.02)))
    assert is_faster(look(list(steady + 0.04)))


@pytest.mark.fault
def test_equal_sessions_are_rarely_called_faster() -> None:
    """Nor does the interval miss the truth of a launch in more than 5 %, whichever look it is of."""
    random = np.random.default_rng(0)
    launches, called, missed = 400, 0, 0
    for _ in range(launches):
        own = random.normal(0, 0.01)  # of two equal sessions in this launch
        ratios = random.normal(own, 0.03, ROUNDS + MORE_ROUNDS)
        for rounds in (ROUNDS, ROUNDS + MORE_ROUNDS):
            estimate = look(list(ratios[:rounds]))
            if is_faster(estimate) or estimate.mean < MIN_DIFFERENCE:
                break
        called += is_faster(estimate)
        missed += not estimate.low <= own <= estimate.high
    assert called <= 0.02 * launches
    assert binomial_cdf(launches - missed, launches, 0.95) > 0.001


EMPTY, ALIKE, UNLIKE = Difference(True, None), Difference(True, 0.01), Difference(False, None)


@pytest.mark.parametrize(
    ("others", "noise", "n", "agree", "words"),
    [
        ([EMPTY] * 4, [EMPTY] * 28, 0, False, "too few pictures that count: 0 (at least 2 are needed) of"),
        ([ALIKE] + [EMPTY] * 3, [EMPTY] * 28, 1, False, "too few pictures that count: 1"),
        ([ALIKE] * 2 + [EMPTY] * 2, [EMPTY] * 28, 2, True, "answers agree: 2 of 2 the same"),
        ([ALIKE, UNLIKE] + [EMPTY] * 2, [EMPTY] * 28, 2, False, "answers do not agree: 1 of 2"),
        ([EMPTY] * 4, [ALIKE] * 3, 3, True, "answers agree: 3 of 3"),
        ([], [], 0, False, "too few pictures that count: 0"),
    ],
)
def test_only_pictures_with_objects_count(
    others: list[Difference], noise: list[Difference], n: int, agree: bool, words: str
) -> None:
    answers = summary(others, noise, "pictures", detector=True)
    assert (answers.n, answers.agree) == (n, agree)
    assert words in str(answers)
    result = weighing(answers=answers)
    assert (result.switches, words in str(result)) == (agree, True)
    empty = [*others, *noise].count(EMPTY)
    assert answers.pictures == "pictures" + (f"; without objects, so not counted: {empty}" if empty else "")
    assert (result.agreement(read_card(NETWORKS / FLOAT)) is None) == (n < 2)


def test_photographs_and_noise_are_judged_apart() -> None:
    """28 of noise do not outvote 4 photographs, nor the other way round."""
    near, far = Difference(True, 0.01), Difference(True, 0.9)
    for others, noise in (([far] * 4, [near] * 28), ([near] * 31, [far]), ([], [far]), ([far], [])):
        answers = summary(others, noise, "pictures", detector=False)
        assert (answers.n, answers.deviation, answers.agree) == (len(others + noise), 0.9, False)
    assert summary([near] * 4, [near] * 28, "pictures", detector=False).agree


def make_odd_model(zoo: Path, name: str) -> Path:
    """Depthwise layers of 31 channels, for which ONNX Runtime has no fast code: OpenVINO is much faster."""
    folder = make_tiny_model(zoo, name)
    graph = onnx.load(folder / "model.onnx").graph
    random = np.random.default_rng(0)
    nodes, weights, value = [], {}, "image"
    for layer, channels in enumerate((3, *(1,) * 8)):
        weights[f"w{layer}"] = random.normal(0, (2 / 9 / channels) ** 0.5, (31, channels, 3, 3))
        shape = {"pads": [1] * 4, "group": 31 if layer else 1}
        nodes.append(helper.make_node("Conv", [value, f"w{layer}"], [f"c{layer}"], **shape))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [value := f"r{layer}"]))
    weights["head"] = random.normal(0, 1, (10, 31))
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "head"], ["logits"], transB=1))
    tensors = [numpy_helper.from_array(each.astype(np.float32), key) for key, each in weights.items()]
    odd = helper.make_graph(nodes, "odd", [graph.input[0]], [graph.output[0]], tensors)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"outputs": {"logits": [10]}}))
    put_file(folder, helper.make_model(odd, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    return folder


def weighed(client: httpx.Client, name: str) -> dict[str, Any]:
    """Wait until a model is weighed; return what runs it."""
    described: dict[str, Any] = {}

    def done() -> bool:
        described.update(client.get(f"/models/{name}").json())
        return described["runtime"]["weighed"] is not None

    until(done, f"'{name}' is weighed")
    runtime: dict[str, Any] = described["runtime"]
    return runtime


@pytest.fixture
def auto(tmp_path: Path) -> Settings:
    zoo = tmp_path / "zoo"
    make_odd_model(zoo, "odd")
    shutil.copytree(NETWORKS / FLOAT, zoo / FLOAT)
    return Settings(model_dirs=(zoo,), default_model="odd", data_dir=tmp_path / "data", runtime="auto")


@pytest.mark.openvino
def test_auto_switches_where_openvino_is_faster(auto: Settings, png: bytes) -> None:
    with running(auto) as client:
        odd = weighed(client, "odd")
        assert (odd["name"], odd["chosen"], odd["origin"], odd["reason"]) == (
            "openvino", "auto", "setting", None
        )  # fmt: skip
        result = odd["weighed"]
        assert (result["faster"], result["agree"], result["problem"]) == (True, True, None)
        assert 1 < result["low"] <= result["speedup"] <= result["high"]
        assert result["openvino_ms"] < result["onnxruntime_ms"]
        assert result["answers"]["pictures"] == "4 bundled photographs, 28 of noise"
        assert result["answers"]["n"] == PICTURES
        assert client.post("/classify", content=png).json()["runtime"] == "openvino"
        other = weighed(client, FLOAT)
        wins = other["weighed"]["faster"] and other["weighed"]["agree"]
        assert other["name"] == ("openvino" if wins else "onnxruntime")
        assert client.post(f"/classify?model={FLOAT}", content=png).json()["runtime"] == other["name"]
    with running(auto) as client:  # the result is kept: no second weighing, and OpenVINO from the start
        again = client.get("/models/odd").json()["runtime"]
        assert again == odd


@pytest.mark.openvino
@pytest.mark.parametrize(
    "changed",
    ["cpu", "instruction_set", "onnxruntime", "openvino", "sha256", "card", "threads", "options"],
)
def test_weighing_is_redone_under_other_conditions(auto: Settings, changed: str) -> None:
    card = read_card(auto.model_dirs[0] / "odd")
    here = Conditions.here(card, 1)
    others = {
        "instruction_set": ("sse",), "sha256": "f" * 64, "card": "f" * 64, "threads": 3, "options": {"a": "1"}
    }  # fmt: skip
    other = others.get(changed, "other")
    outdated = weighing(model="odd", conditions=here.model_copy(update={changed: other}), precision="fp32")
    choices = RuntimeChoices("auto", auto.data_dir)
    choices.keep_weighing(outdated)
    assert choices.weighing(card, choices.of(card)) is None
    choices.keep_weighing(current := outdated.model_copy(update={"conditions": here}))
    assert choices.weighing(card, choices.of(card)) == current
    assert RuntimeChoices("auto", auto.data_dir).weighing(card, choices.of(card)) == current
    kept = json.loads((auto.data_dir / "runtimes.json").read_text())["weighings"]
    # of the same machine only the newest is kept
    assert len(kept) == (2 if changed == "cpu" else 1)


@pytest.mark.openvino
def test_conditions_have_what_changes_the_network_s_input_but_not_the_accuracy() -> None:
    card = read_card(NETWORKS / FLOAT)
    here = Conditions.here(card, 1)
    darker = card.input.model_copy(update={"mean": tuple(value + 1 for value in card.input.mean)})
    assert Conditions.here(card.model_copy(update={"input": darker}), 1) != here
    assert Conditions.here(card.model_copy(update={"accuracy": None, "notes": ("new",)}), 1) == here


@pytest.mark.openvino
def test_answers_that_differ_keep_onnx_runtime(auto: Settings, png: bytes) -> None:
    here = Conditions.here(read_card(auto.model_dirs[0] / "odd"), core_budget())
    answers = ANSWERS.model_copy(update={"same": 20})
    RuntimeChoices("auto", auto.data_dir).keep_weighing(
        weighing(model="odd", conditions=here, precision="fp32", answers=answers)
    )
    with running(auto) as client:
        runtime = client.get("/models/odd").json()["runtime"]
        assert runtime["name"] == "onnxruntime"
        assert "answers do not agree: 20 of 32" in runtime["reason"]
        assert client.post("/classify", content=png).json()["runtime"] == "onnxruntime"


@pytest.mark.openvino
def test_pictures_are_those_of_the_gallery(auto: Settings, png: bytes, cat_jpeg: bytes) -> None:
    settings = auto.model_copy(update={"runtime": "onnxruntime", "default_model": FLOAT})
    with running(settings) as client:
        for name, content in (("one", png), ("two", cat_jpeg)):
            assert client.put(f"/gallery/images/{name}", content=content).status_code == 201
        chosen = client.put("/models/odd/runtime?runtime=auto").json()["runtime"]
        assert (chosen["name"], chosen["reason"]) == ("onnxruntime", "not weighed yet")
        answers = weighed(client, "odd")["weighed"]["answers"]
        assert answers["pictures"] == "2 pictures of the gallery, 4 bundled photographs, 26 of noise"


@pytest.mark.openvino
def test_model_that_openvino_refuses(auto: Settings, png: bytes) -> None:
    end_in_scaler(make_tiny_model(auto.model_dirs[0], "scaled"))
    with running(auto) as client:
        runtime = weighed(client, "scaled")
        assert runtime["name"] == "onnxruntime"
        assert runtime["reason"].startswith("cannot be weighed: OpenVINO 20")
        assert "ai.onnx.ml.Scaler" in runtime["weighed"]["problem"]
        assert runtime["weighed"]["answers"] is None
        assert client.post("/classify?model=scaled", content=png).json()["runtime"] == "onnxruntime"


@pytest.mark.openvino
@pytest.mark.skipif("avx512bw" not in this_machine().instruction_set, reason="bf16 needs AVX-512")
def test_agreement_of_other_answers_is_measured(auto: Settings) -> None:
    shutil.copytree(NETWORKS / INT8, auto.model_dirs[0] / INT8)
    with running(auto.model_copy(update={"runtime": "onnxruntime"})) as client:
        for name, floats, precision in (
            (FLOAT, "bf16", "bf16"), (INT8, "bf16", "int8+bf16"), (INT8, "f32", "int8"),
        ):  # fmt: skip
            before = client.get(f"/models/{name}").json()
            chosen = client.put(f"/models/{name}/runtime?runtime=openvino&precision={floats}").json()
            assert (chosen["accuracy"]["kind"], chosen["agreement"]) == ("inherited", None)
            result = weighed(client, name)
            assert (result["name"], result["precision"]) == ("openvino", precision)
            answers = result["weighed"]["answers"]
            assert 0 < answers["deviation"] < answers["limit"]
            after = client.get(f"/models/{name}").json()
            assert after["accuracy"] == before["accuracy"] | {"kind": "inherited"}
            lost = 1 - answers["same"] / answers["n"]
            assert after["agreement"]["value"] == pytest.approx(1 - lost, abs=2e-4)
            assert after["agreement"]["parent"] == name
            # What recommends and draws fronts has the same.
            registry = Registry(auto.model_dirs, name, choices=runtime_choices(auto))
            registry.load()
            card = registry.served_cards()[name]
            assert card.accuracy is not None
            assert card.agreement is not None
            assert (card.accuracy.kind, card.agreement.value) == ("inherited", after["agreement"]["value"])


@pytest.mark.openvino
def test_recommendation_knows_the_runtime_and_the_inherited_accuracy(auto: Settings) -> None:
    here = Conditions.here(read_card(auto.model_dirs[0] / FLOAT), 1)
    choices = RuntimeChoices("auto", auto.data_dir)
    registry = Registry(auto.model_dirs, FLOAT, choices=choices)

    def runtimes() -> dict[str, str]:
        return {name: serving.runtime for name, serving in registry.servings().items()}

    assert runtimes() == {FLOAT: "onnxruntime", "odd": "onnxruntime"}
    choices.keep_weighing(weighing(model=FLOAT, conditions=here))
    assert runtimes() == {FLOAT: "openvino", "odd": "onnxruntime"}
    # Nothing is loaded, as in `weighin recommend`, and while a service loads its models.
    own = registry.entry(FLOAT).card
    assert own is not None
    assert own.accuracy is not None

    def found(**bounds: float) -> Recommendation:
        constraints = Constraints(labels=own.labels, **bounds)
        return advise_here(constraints, registry, [], {}, recommend_machine()).recommendation

    card = registry.served_cards()[FLOAT]
    assert card.accuracy is not None
    assert card.accuracy.kind == "inherited"
    (fit,) = found().fits
    assert fit.accuracy is not None
    assert (fit.accuracy.kind, fit.accuracy.value) == (
        "inherited",
        pytest.approx(own.accuracy.value - 1 / 32, abs=1e-4),
    )
    assert registry.servings()[FLOAT].precision == "bf16"
    choices.keep(FLOAT, Requested(runtime="openvino", floats="f32"))
    reason = (
        "accuracy unknown: the answers of OpenVINO have not been compared with those of ONNX Runtime in fp32"
    )
    (fit,) = found().fits
    assert fit.accuracy is None
    assert reason in fit.notes
    (rejected,) = (each for each in found(min_accuracy=0.1).rejected if each.model == FLOAT)
    assert rejected.reason == reason
    choices.keep(FLOAT, Requested(runtime="onnxruntime"))
    (fit,) = found().fits
    assert fit.accuracy is not None
    assert (fit.accuracy.kind, fit.accuracy.value) == ("measured", own.accuracy.value)


@pytest.mark.openvino
def test_doctor_finds_a_model_that_openvino_runs_faster(auto: Settings) -> None:
    folder = auto.model_dirs[0] / "odd"
    under_test = ModelUnderTest(read_card(folder), (folder / "model.onnx").read_bytes())
    (finding,) = faster_in_openvino(under_test, RunSettings())
    assert finding.slug == "faster-in-openvino"
    precision = "bf16" if "avx512_bf16" in this_machine().instruction_set else "fp32"
    assert f"runs it in {precision}, " in finding.evidence
    assert "WEIGHIN_RUNTIME=auto" in finding.remedy
    (finding,) = faster_in_openvino(under_test, RunSettings(auto=True))
    assert "until the service has weighed it" in finding.remedy
    assert list(faster_in_openvino(under_test, RunSettings(runtime="openvino"))) == []
