"""Each fault is found on a network made to have it, and nothing on a clean one."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.onnx_tools.graph import convolution_chain
from models.zoo.card import read_card
from service.bench.doctor import diagnose as doctor
from service.bench.doctor.ab_timing import AbTiming, time_in_turn
from service.bench.doctor.diagnose import Report
from service.bench.doctor.findings import Finding
from service.bench.doctor.model import ModelUnderTest
from service.bench.doctor.operators import measure_ceiling, measure_operators
from service.bench.doctor.running import RunSettings
from service.bench.fingerprint import Machine
from service.bench.measure.subjects import StageTimes
from tests.helpers.detectors import save_detector
from tests.service.bench.doctor.networks import Network, small

CEILING = {"fp32": 50.0, "int8": 200.0}
MACHINE = Machine(
    architecture="x86_64",
    cpu_model="Test CPU",
    cpu_id="",
    isa=("avx2", "avx512_vnni", "avx512f"),
    cpus=4,
    quota_cores=2.0,
    cores=2,
)


def model(folder: Path) -> ModelUnderTest:
    return ModelUnderTest(read_card(folder), (folder / "model.onnx").read_bytes())


def diagnose(
    under_test: ModelUnderTest,
    *,
    parent: ModelUnderTest | None = None,
    machine: Machine = MACHINE,
    settings: RunSettings | None = None,
) -> Report:
    return doctor.diagnose(under_test, parent, machine, settings or RunSettings(), CEILING)  # type: ignore[arg-type]


def only(report: Report) -> Finding:
    """The one finding."""
    assert [finding.slug for finding in report.findings] == [each.slug for each in report.findings[:1]]
    assert report.findings, "nothing was found"
    return report.findings[0]


def wide(network: Network) -> Network:
    """Large enough for 8 bits to pay, where the CPU has the instructions."""
    network.conv("stem", 64, kernel=3, stride=2)
    for layer in range(4):
        network.conv(f"conv{layer}", 64, kernel=3)
    return network


def test_nothing_is_found_on_a_clean_network(tmp_path: Path) -> None:
    report = diagnose(model(small().save(tmp_path, "clean")))
    assert report.findings == ()
    assert [operator.op for operator in report.operators if operator.macs]


def test_nothing_is_found_on_a_clean_quantized_network(tmp_path: Path) -> None:
    """Its 8-bit arithmetic pays only on CPUs that have it: that check has tests of its own."""
    found = diagnose(model(wide(Network(quantized=True)).save(tmp_path, "clean-int8"))).findings
    assert found == ()


@pytest.mark.parametrize("kind", ["centre-points", "selected-boxes"])
def test_detectors_are_diagnosed(kind: str, tmp_path: Path) -> None:
    """All outputs that the decoder reads are computed, and profiled."""
    report = diagnose(model(save_detector(tmp_path, "colours", kind)), settings=RunSettings(2, spinning=True))
    kinds = [operator.op for operator in report.operators]
    assert kinds.count("NonMaxSuppression") == (kind == "selected-boxes")
    assert sum(op.endswith("Conv") for op in kinds) == (4 if kind == "centre-points" else 1)


def test_unfolded_batch_norm(tmp_path: Path) -> None:
    network = Network().conv("stem", 32, kernel=3, stride=2)
    network.batch_norm("bn1").conv("pw", 32).batch_norm("bn2")  # behind a ReLU: cannot be folded
    finding = only(diagnose(model(network.save(tmp_path, "bn"))))
    assert finding.slug == "batch-norm-unfolded"
    assert "2 of 2 batch norms" in finding.evidence
    assert "'bn1', 'bn2'" in finding.evidence


def test_folded_batch_norm_is_no_finding(tmp_path: Path) -> None:
    network = Network().conv("stem", 32, kernel=3, stride=2, relu=False).batch_norm("bn").conv("pw", 32)
    assert diagnose(model(network.save(tmp_path, "folded"))).findings == ()


def test_convolution_with_float_output_does_not_fuse(tmp_path: Path) -> None:
    network = wide(Network(quantized=True))
    network.last = network.node("HardSwish", [network.last], "swish")
    finding = only(diagnose(model(network.save(tmp_path, "unfused"))))
    assert finding.slug == "qdq-not-fused"
    assert "1 operators compute in float on 8-bit weights: 'conv3'" in finding.evidence


def test_operator_without_8_bit_kernel(tmp_path: Path) -> None:
    network = wide(Network(quantized=True))
    taken = network._pair(network.last, "before")
    network.last = network.node("HardSwish", [taken], "swish")
    finding = only(diagnose(model(network.conv("last", 64).save(tmp_path, "island"))))
    assert finding.slug == "qdq-not-fused"
    assert "2 operators (HardSigmoid, Mul) run in float between" in finding.evidence


@pytest.mark.parametrize(("channels", "aligned"), [(31, False), (30, False), (28, True), (32, True)])
def test_unaligned_channels(channels: int, aligned: bool, tmp_path: Path) -> None:
    network = Network().conv("stem", channels, kernel=3, stride=2)
    network.conv("dw", channels, kernel=3, groups=channels).conv("pw", 32)
    report = diagnose(model(network.save(tmp_path, "odd")))
    if aligned:
        assert report.findings == ()
    else:
        finding = only(report)
        assert finding.slug == "channels-off-alignment"
        assert f"3 convolutions have channels that are not a multiple of 4: 'stem (3 -> {channels})'" in (
            finding.evidence
        )


@pytest.mark.parametrize(
    ("isa", "per_group", "aligned"),
    [
        (("avx2", "avx512f"), 8, False),
        (("avx2", "avx512f"), 16, True),
        (("avx2",), 8, True),
        (("avx2",), 4, False),
    ],
)
def test_unaligned_grouped_convolutions(
    isa: tuple[str, ...], per_group: int, aligned: bool, tmp_path: Path
) -> None:
    network = Network().conv("stem", 64, kernel=3, stride=2)
    network.conv("grouped", 64, kernel=3, groups=64 // per_group)
    machine = MACHINE.model_copy(update={"isa": isa})
    report = diagnose(model(network.save(tmp_path, "groups")), machine=machine)
    if aligned:
        assert report.findings == ()
    else:
        finding = only(report)
        assert finding.slug == "channels-off-alignment"
        assert f"'grouped (64 -> 64, {64 // per_group} groups)'" in finding.evidence


@pytest.mark.slow
def test_denormal_weights(tmp_path: Path) -> None:
    network = small()
    network.weights["pw1.weight"].flat[::2] = 1e-40
    under_test = model(network.save(tmp_path, "denormal"))
    finding = only(diagnose(under_test))
    assert finding.slug == "denormal-weights"
    assert f"{network.weights['pw1.weight'].size // 2} weights in 'pw1.weight'" in finding.evidence
    assert " ms against " in finding.evidence


@pytest.mark.slow
@pytest.mark.parametrize("quantized", [False, True])
def test_zeros_without_speed_up(quantized: bool, tmp_path: Path) -> None:
    network = wide(Network(quantized=quantized))
    name = "conv1.weight.q" if quantized else "conv1.weight"
    values = network.weights[name]
    values[np.random.default_rng(0).random(values.shape) < 0.6] = 0
    finding = only(diagnose(model(network.save(tmp_path, "sparse"))))
    assert finding.slug == "zeros-without-speed-up"
    share = np.mean(values == 0)
    assert f"{share:.0%} of the weights in '{name}' are zero" in finding.evidence


@pytest.mark.slow
def test_int8_on_a_small_network(tmp_path: Path) -> None:
    def depthwise(network: Network) -> Network:
        network.conv("stem", 16, kernel=3)
        for layer in range(6):
            network.conv(f"dw{layer}", 16, kernel=3, groups=16)
        return network

    parent = model(depthwise(Network(input=28)).save(tmp_path, "float"))
    child = model(depthwise(Network(input=28, quantized=True)).save(tmp_path, "int8", derived_from="float"))
    finding = only(diagnose(child, parent=parent))
    assert finding.slug == "int8-without-gain"
    assert "times as fast as 'float'" in finding.evidence
    assert "M multiply-accumulates" in finding.evidence
    assert "serve 'float' instead" in finding.remedy


def test_int8_without_vnni(tmp_path: Path) -> None:
    machine = MACHINE.model_copy(update={"isa": ("avx2",)})
    child = model(wide(Network(quantized=True)).save(tmp_path, "int8"))
    finding = only(diagnose(child, machine=machine))
    assert finding.slug == "int8-without-vnni"
    assert "instruction sets: avx2" in finding.evidence
    assert "its fp32 model is not in the zoo" in finding.evidence


def test_more_threads_than_cores(tmp_path: Path) -> None:
    clean = model(small().save(tmp_path, "clean"))
    finding = only(diagnose(clean, settings=RunSettings(service_threads=8)))
    assert finding.slug == "threads-beyond-the-cores"
    assert finding.evidence == (
        "WEIGHIN_THREADS is 8, the process can keep 2 cores busy: CPU affinity 4, cgroup cpu.max 2 cores"
    )
    assert diagnose(clean, settings=RunSettings(service_threads=2)).findings == ()


@pytest.mark.slow
def test_spinning_threads(tmp_path: Path) -> None:
    under_test = model(wide(Network(input=112)).save(tmp_path, "wide"))
    finding = only(diagnose(under_test, settings=RunSettings(threads=2, spinning=True)))
    assert finding.slug == "spinning"
    assert "ms of CPU per run with spinning" in finding.evidence
    assert diagnose(under_test, settings=RunSettings(threads=2)).findings == ()


@pytest.mark.parametrize("channels", [24, 32])  # 24 is padded to 32 when the CPU has blocks of 16
def test_macs_of_operators(channels: int, tmp_path: Path) -> None:
    network = Network().conv("stem", channels, kernel=3, stride=2)
    network.conv("dw", channels, kernel=3, groups=channels).conv("pw", 48)
    under_test = model(network.save(tmp_path, "net"))
    assert sum(operator.macs for operator in under_test.operators) == under_test.card.macs
    assert sum(operator.share for operator in under_test.operators) == pytest.approx(1)
    times = [operator.typical_us for operator in under_test.operators]
    assert times == sorted(times, reverse=True)


def test_macs_of_quantized_operators(tmp_path: Path) -> None:
    operators = model(wide(Network(quantized=True)).save(tmp_path, "net")).operators
    kinds = {operator.op: operator.arithmetic for operator in operators}
    assert kinds["QLinearConv"] == "int8"
    assert kinds["Gemm"] == "fp32"
    float_ones = model(wide(Network()).save(tmp_path, "float")).operators
    assert sum(o.macs for o in operators) == sum(o.macs for o in float_ones)


def test_ceiling_models() -> None:
    for content in (convolution_chain("fp32"), convolution_chain("int8")):
        onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
        layers = [o for o in measure_operators(content, runs=2, warm_up=1) if o.macs]
        assert [o.macs for o in layers] == [256 * 256 * 28 * 28] * 4
    ceiling = measure_ceiling(runs=4)
    assert min(ceiling.values()) > 0.5


class Sorting:
    """Sorts that many numbers in every run."""

    def __init__(self, count: int) -> None:
        self._numbers = np.zeros(count)

    def run(self, _: int) -> StageTimes:
        start = time.perf_counter_ns()
        np.sort(self._numbers)
        return {"inference": time.perf_counter_ns() - start}


def a_is_slower(timing: AbTiming, by: float) -> bool:
    return timing.low > 1 and timing.ratio > 1 + by


@pytest.mark.slow
def test_ab_timing() -> None:
    assert a_is_slower(time_in_turn(Sorting(400_000), Sorting(40_000)), by=1.0)
    assert not a_is_slower(time_in_turn(Sorting(40_000), Sorting(40_000)), by=0.5)
