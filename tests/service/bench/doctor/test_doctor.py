"""Each fault is found on a network made to have it, and nothing on a clean one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from models.zoo.card import read_card
from service.bench.doctor.ceiling import float_chain, int8_chain, measure_ceiling
from service.bench.doctor.duel import duel
from service.bench.doctor.examine import Diagnosis, examine
from service.bench.doctor.findings import Finding
from service.bench.doctor.operators import measure_operators
from service.bench.doctor.patient import Patient
from service.bench.doctor.running import RunSettings
from service.bench.fingerprint import Machine
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


def patient(folder: Path) -> Patient:
    return Patient(read_card(folder), (folder / "model.onnx").read_bytes())


def diagnose(
    ill: Patient,
    *,
    parent: Patient | None = None,
    machine: Machine = MACHINE,
    settings: RunSettings | None = None,
) -> Diagnosis:
    return examine(ill, parent, machine, settings or RunSettings(), CEILING)  # type: ignore[arg-type]


def only(diagnosis: Diagnosis) -> Finding:
    """The one finding."""
    assert [finding.slug for finding in diagnosis.findings] == [each.slug for each in diagnosis.findings[:1]]
    assert diagnosis.findings, "nothing was found"
    return diagnosis.findings[0]


def wide(network: Network) -> Network:
    """Large enough for 8 bits to pay, where the CPU has the instructions."""
    network.conv("stem", 64, kernel=3, stride=2)
    for layer in range(4):
        network.conv(f"conv{layer}", 64, kernel=3)
    return network


def test_nothing_is_found_on_a_clean_network(tmp_path: Path) -> None:
    diagnosis = diagnose(patient(small().save(tmp_path, "clean")))
    assert diagnosis.findings == ()
    assert [operator.op for operator in diagnosis.operators if operator.macs]


def test_nothing_is_found_on_a_clean_quantized_network(tmp_path: Path) -> None:
    """Its 8-bit arithmetic pays only on CPUs that have it: that check has tests of its own."""
    found = diagnose(patient(wide(Network(quantized=True)).save(tmp_path, "clean-int8"))).findings
    assert found == ()


def test_batch_norm_that_follows_no_convolution_is_found(tmp_path: Path) -> None:
    network = Network().conv("stem", 32, kernel=3, stride=2)
    network.batch_norm("bn1").conv("pw", 32).batch_norm("bn2")  # behind a ReLU: cannot be folded
    finding = only(diagnose(patient(network.save(tmp_path, "bn"))))
    assert finding.slug == "batch-norm-unfolded"
    assert "2 of 2 batch norms" in finding.evidence
    assert "'bn1', 'bn2'" in finding.evidence


def test_batch_norm_behind_a_convolution_is_folded_and_no_fault(tmp_path: Path) -> None:
    network = Network().conv("stem", 32, kernel=3, stride=2, relu=False).batch_norm("bn").conv("pw", 32)
    assert diagnose(patient(network.save(tmp_path, "folded"))).findings == ()


def test_a_convolution_whose_output_is_not_quantized_does_not_fuse(tmp_path: Path) -> None:
    network = wide(Network(quantized=True))
    network.last = network.node("HardSwish", [network.last], "swish")
    finding = only(diagnose(patient(network.save(tmp_path, "unfused"))))
    assert finding.slug == "qdq-not-fused"
    assert "1 operators compute in float on 8-bit weights: 'conv3'" in finding.evidence


def test_an_operator_without_8_bit_kernel_between_pairs_is_found(tmp_path: Path) -> None:
    network = wide(Network(quantized=True))
    taken = network._pair(network.last, "before")
    network.last = network.node("HardSwish", [taken], "swish")
    finding = only(diagnose(patient(network.conv("last", 64).save(tmp_path, "island"))))
    assert finding.slug == "qdq-not-fused"
    assert "2 operators (HardSigmoid, Mul) stand between" in finding.evidence


@pytest.mark.parametrize(("channels", "aligned"), [(31, False), (30, False), (28, True), (32, True)])
def test_channels_off_multiples_of_4_are_found(channels: int, aligned: bool, tmp_path: Path) -> None:
    network = Network().conv("stem", channels, kernel=3, stride=2)
    network.conv("dw", channels, kernel=3, groups=channels).conv("pw", 32)
    diagnosis = diagnose(patient(network.save(tmp_path, "odd")))
    if aligned:
        assert diagnosis.findings == ()
    else:
        finding = only(diagnosis)
        assert finding.slug == "channels-off-alignment"
        assert f"3 convolutions have channels that are no multiple of 4: 'stem (3 -> {channels})'" in (
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
def test_grouped_convolutions_want_a_register_of_channels_per_group(
    isa: tuple[str, ...], per_group: int, aligned: bool, tmp_path: Path
) -> None:
    network = Network().conv("stem", 64, kernel=3, stride=2)
    network.conv("grouped", 64, kernel=3, groups=64 // per_group)
    machine = MACHINE.model_copy(update={"isa": isa})
    diagnosis = diagnose(patient(network.save(tmp_path, "groups")), machine=machine)
    if aligned:
        assert diagnosis.findings == ()
    else:
        finding = only(diagnosis)
        assert finding.slug == "channels-off-alignment"
        assert f"'grouped (64 -> 64, {64 // per_group} groups)'" in finding.evidence


def test_denormal_weights_are_found_and_measured_against_zeros(tmp_path: Path) -> None:
    network = small()
    network.weights["pw1.weight"].flat[::2] = 1e-40
    ill = patient(network.save(tmp_path, "denormal"))
    finding = only(diagnose(ill))
    assert finding.slug == "denormal-weights"
    assert f"{network.weights['pw1.weight'].size // 2} weights in 'pw1.weight'" in finding.evidence
    assert " ms against " in finding.evidence


@pytest.mark.parametrize("quantized", [False, True])
def test_zeros_are_found_and_measured_against_other_numbers(quantized: bool, tmp_path: Path) -> None:
    network = wide(Network(quantized=quantized))
    name = "conv1.weight.q" if quantized else "conv1.weight"
    values = network.weights[name]
    values[np.random.default_rng(0).random(values.shape) < 0.6] = 0
    finding = only(diagnose(patient(network.save(tmp_path, "sparse"))))
    assert finding.slug == "zeros-without-speed-up"
    share = np.mean(values == 0)
    assert f"{share:.0%} of the weights in '{name}' are zero" in finding.evidence


def test_int8_on_a_network_too_small_to_gain_is_measured_against_its_parent(tmp_path: Path) -> None:
    def depthwise(network: Network) -> Network:
        network.conv("stem", 16, kernel=3)
        for layer in range(6):
            network.conv(f"dw{layer}", 16, kernel=3, groups=16)
        return network

    parent = patient(depthwise(Network(input=28)).save(tmp_path, "float"))
    child = patient(depthwise(Network(input=28, quantized=True)).save(tmp_path, "int8", derived_from="float"))
    finding = only(diagnose(child, parent=parent))
    assert finding.slug == "int8-without-gain"
    assert "times as fast as its parent 'float'" in finding.evidence
    assert "M multiply-accumulates" in finding.evidence
    assert "serve 'float' instead" in finding.remedy


def test_int8_without_its_instructions_is_found_even_without_the_parent(tmp_path: Path) -> None:
    machine = MACHINE.model_copy(update={"isa": ("avx2",)})
    child = patient(wide(Network(quantized=True)).save(tmp_path, "int8"))
    finding = only(diagnose(child, machine=machine))
    assert finding.slug == "int8-without-vnni"
    assert "instruction sets: avx2" in finding.evidence
    assert "its parent is not in the zoo" in finding.evidence


def test_more_threads_than_the_cgroup_leaves_are_found(tmp_path: Path) -> None:
    clean = patient(small().save(tmp_path, "clean"))
    finding = only(diagnose(clean, settings=RunSettings(service_threads=8)))
    assert finding.slug == "threads-beyond-the-cores"
    assert finding.evidence == (
        "WEIGHIN_THREADS is 8, the process can keep 2 busy: the affinity leaves 4, "
        "the cgroup's cpu.max 2 cores"
    )
    assert diagnose(clean, settings=RunSettings(service_threads=2)).findings == ()


def test_spinning_threads_are_caught_by_the_cpu_time_they_take(tmp_path: Path) -> None:
    ill = patient(wide(Network(input=112)).save(tmp_path, "wide"))
    finding = only(diagnose(ill, settings=RunSettings(threads=2, spinning=True)))
    assert finding.slug == "spinning"
    assert "ms of CPU per run with spinning" in finding.evidence
    assert diagnose(ill, settings=RunSettings(threads=2)).findings == ()


@pytest.mark.parametrize("channels", [24, 32])  # 24 is padded to 32 when the CPU has blocks of 16
def test_operators_have_the_multiply_accumulates_of_the_network_on_paper(
    channels: int, tmp_path: Path
) -> None:
    network = Network().conv("stem", channels, kernel=3, stride=2)
    network.conv("dw", channels, kernel=3, groups=channels).conv("pw", 48)
    ill = patient(network.save(tmp_path, "net"))
    assert sum(operator.macs for operator in ill.operators) == ill.card.macs
    assert sum(operator.share for operator in ill.operators) == pytest.approx(1)
    times = [operator.typical_us for operator in ill.operators]
    assert times == sorted(times, reverse=True)


def test_quantized_operators_have_them_too_and_say_that_they_are_int8(tmp_path: Path) -> None:
    operators = patient(wide(Network(quantized=True)).save(tmp_path, "net")).operators
    kinds = {operator.op: operator.arithmetic for operator in operators}
    assert kinds["QLinearConv"] == "int8"
    assert kinds["Gemm"] == "fp32"
    float_ones = patient(wide(Network()).save(tmp_path, "float")).operators
    assert sum(o.macs for o in operators) == sum(o.macs for o in float_ones)


def test_the_ceiling_is_two_valid_models_that_run() -> None:
    for content in (float_chain(), int8_chain()):
        onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
        layers = [o for o in measure_operators(content, runs=2, warm_up=1) if o.macs]
        assert [o.macs for o in layers] == [256 * 256 * 28 * 28] * 4
    ceiling = measure_ceiling(runs=4)
    assert min(ceiling.values()) > 0.5


def test_a_duel_finds_the_slower_one_and_no_difference_between_equals() -> None:
    long, short = np.zeros(400_000), np.zeros(40_000)
    verdict = duel(lambda: np.sort(long), lambda: np.sort(short))
    assert verdict.a_is_slower(by=1.0)
    assert not duel(lambda: np.sort(short), lambda: np.sort(short)).a_is_slower(by=0.5)
