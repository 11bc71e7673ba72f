"""Recommendations per kind of machine: benchmarks of unlike machines are never in one comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.zoo.card import Accuracy, read_card, write_card
from service.api.recommend import RecommendResponse
from service.bench.archive import MAX_BUNDLES, MOST_IN_ALL, BenchmarkArchive
from service.bench.bundle import Cold, ModelFacts
from service.bench.fingerprint import Fingerprint, Host
from service.bench.recommend.advice import advise_here, this_machine
from service.bench.recommend.evidence import StoredBundle
from service.bench.recommend.machines import chosen, kinds_of
from service.bench.recommend.recommend import Constraints
from service.bench.store import BenchmarkStore
from service.errors import InvalidParameter
from service.inference.registry import Registry
from service.settings import Settings
from service.storage.database import open_database
from tests.conftest import make_tiny_model
from tests.helpers.problems import assert_problem
from tests.service.bench import bundles
from tests.service.web.test_fronts import steady_benchmark

FAST = "Fast CPU, 2 cores"


def machine(**changes: Any) -> Fingerprint:
    """This machine with other facts, and the software that is installed here."""
    here = this_machine()
    made = bundles.fingerprint("Fast CPU").machine.model_copy(update=changes)
    return here.model_copy(update={"machine": made})


@pytest.mark.databases("sqlite", "postgresql")
class TestRoute:
    """GET /recommend of one replica, with benchmarks of several machines in its database."""

    @pytest.fixture
    def save(self, tiny_settings: Settings) -> Callable[..., str]:
        """Store a benchmark of this machine or `on` another, of the median in milliseconds of each model."""
        registry = Registry(tiny_settings.model_dirs, "tiny")
        facts = {name: ModelFacts.of(card) for name, card in registry.served_cards().items()}

        def store(medians_ms: dict[str, float], on: Fingerprint | None = None) -> str:
            engine = open_database(tiny_settings.database_url, tiny_settings.data_dir)
            identifier = BenchmarkArchive(BenchmarkStore(engine)).save(
                steady_benchmark(facts, medians_ms, on)
            )
            engine.dispose()
            return identifier

        return store

    @pytest.mark.slow
    def test_each_kind_has_its_own_answer(
        self, serve: Callable[..., httpx.Client], save: Callable[..., str]
    ) -> None:
        ours, theirs = save({"tiny": 1, "tiny-b": 5}), save({"tiny": 9, "tiny-b": 2}, machine())
        client, own = serve(), this_machine().machine.name
        told = client.get("/recommend?p99_ms=3").json()
        RecommendResponse.model_validate(told)
        assert (told["machine"], told["recommended"]) == (own, "tiny")
        for each, kind, here, best in zip(
            told["machines"], (own, FAST), (True, False), ("tiny", "tiny-b"), strict=True
        ):
            assert (each["machine"], each["here"], each["benchmarks"]) == (kind, here, 1)
            assert (each["recommended"], each["why"][:19]) == (best, "the only one that f")
        assert told["evidence"]["benchmarks"] == [ours]
        assert {each["benchmark"] for each in told["measured"]} == {ours}
        other = client.get("/recommend", params={"p99_ms": 3, "machine": FAST}).json()
        assert (other["machine"], other["recommended"]) == (FAST, "tiny-b")
        assert other["evidence"]["machine"] == "Fast CPU"
        assert other["evidence"]["benchmarks"] == [theirs]
        assert {each["benchmark"] for each in other["measured"]} == {theirs}
        (unused,) = other["evidence"]["unused"]
        assert (unused["benchmark"], unused["reason"][:29]) == (ours, "measured on another machine (")
        assert [each["recommended"] for each in other["machines"]] == ["tiny-b", "tiny"]
        assert client.get("/recommend", params={"p99_ms": 3, "machine": own}).json() == told
        for fits in (told, other):
            assert not {each["by"] for each in fits["dominated"]}, "without accuracies no one is"

    @pytest.mark.slow
    def test_own_kind_without_benchmarks(
        self, serve: Callable[..., httpx.Client], save: Callable[..., str]
    ) -> None:
        save({"tiny": 2}, machine())
        client, own = serve(), this_machine().machine.name
        told = client.get("/recommend?p99_ms=3").json()
        assert (told["machine"], told["recommended"]) == (own, None)
        assert told["why"].startswith("no usable benchmark")
        assert [(each["machine"], each["benchmarks"], each["recommended"]) for each in told["machines"]] == [
            (own, 0, None),
            (FAST, 1, "tiny"),
        ]
        other = client.get("/recommend", params={"p99_ms": 3, "machine": FAST}).json()
        reasons = {each["model"]: each["reason"] for each in other["rejected"]}
        command = "run `weighin bench --profile standard --models tiny-b` there"
        assert reasons == {"tiny-b": f"not measured on {FAST}: {command}"}
        assert [each["machine"] for each in other["machines"]] == [FAST], "the own kind has no benchmarks"
        response = client.get("/recommend?machine=Abacus")
        words = f"machine 'Abacus': no benchmarks (allowed: {'; '.join(sorted([own, FAST]))})"
        assert_problem(response, 422, "invalid-parameter", words)


def test_runtime_that_was_chosen_is_that_of_all_machines(tmp_path: Path) -> None:
    """OpenVINO by the card, although it cannot run here; its accuracy there is not known here."""
    for name in ("plain", "chosen"):
        folder = make_tiny_model(tmp_path, name)
        known = Accuracy(value=0.8, kind="reported", dataset="things", n=1000, how="test")
        card = read_card(folder).model_copy(update={"accuracy": known})
        if name == "chosen":
            card = card.model_copy(update={"schema_version": 2, "runtime": "openvino"})
        write_card(folder, card)
    registry = Registry([tmp_path], "plain")
    facts = {name: ModelFacts.of(card) for name, card in registry.served_cards().items()}
    made = steady_benchmark(facts, {"plain": 2, "chosen": 1}, machine())
    entries = tuple(
        each.model_copy(update={"runtime": "openvino"}) if each.model == "chosen" else each
        for each in made.entries
    )
    cold = Cold(launch=0, entry="chosen", load_ns=1, first_run_ns=1, precision="bf16")
    kept = [StoredBundle("run", made.model_copy(update={"entries": entries, "cold": (cold,)}))]
    told = advise_here(Constraints(p50_ms=3), registry, kept, {}, this_machine(), machine=FAST).recommendation
    fits = {fit.facts.name: fit for fit in told.fits}
    assert set(fits) == {"plain", "chosen"}
    assert fits["plain"].accuracy is not None
    assert fits["chosen"].accuracy is None
    assert "have not been compared" in fits["chosen"].notes[0]


@pytest.mark.slow
@pytest.mark.databases("sqlite", "postgresql")
def test_many_benchmarks_of_one_machine_leave_room_for_others(
    migrated_url: str | None, tmp_path: Path
) -> None:
    engine = open_database(migrated_url, tmp_path)
    store, archive = BenchmarkStore(engine), BenchmarkArchive(BenchmarkStore(engine))
    for number in range(MAX_BUNDLES + 12):
        cpu = "Slow CPU" if number in (3, 5) else "Fast CPU"
        host = None if number == 4 else Host(cpu=cpu, cores=2, host=f"host{number}", id="0")
        store.add(f"run{number}", "{}", number, number + 1, b"no bundle", host)
    considered = archive.newest()
    engine.dispose()
    assert [name for name in considered if name in ("run3", "run4", "run5")] == ["run5", "run4", "run3"]
    assert len(considered) == MAX_BUNDLES + 3
    assert considered[0] == f"run{MAX_BUNDLES + 11}"


def test_benchmarks_of_many_machines_share_what_is_kept(tmp_path: Path) -> None:
    engine = open_database(None, tmp_path)
    store, archive = BenchmarkStore(engine), BenchmarkArchive(BenchmarkStore(engine))
    for number in range(3 * MAX_BUNDLES):
        host = Host(cpu=f"CPU {number // MAX_BUNDLES}", cores=2, host="host", id="0")
        store.add(f"run{number}", "{}", number, number + 1, b"no bundle", host)
    considered = archive.newest()
    engine.dispose()
    assert len(considered) == MOST_IN_ALL
    numbers = [int(name.removeprefix("run")) for name in considered]
    assert numbers == sorted(numbers, reverse=True)
    shares = Counter(number // MAX_BUNDLES for number in numbers)
    assert max(shares.values()) - min(shares.values()) == 1
    for kind, share in shares.items():
        newest = range((kind + 1) * MAX_BUNDLES - share, (kind + 1) * MAX_BUNDLES)
        assert [number for number in numbers if number // MAX_BUNDLES == kind] == list(reversed(newest))


def stored(*machines: Fingerprint) -> list[StoredBundle]:
    return [
        StoredBundle(f"run{number}", bundles.bundle({"a": [[[1_000_000]]]}, on=each))
        for number, each in enumerate(machines)
    ]


def test_kinds_of_one_name_have_what_tells_them_apart() -> None:
    plain, limited, newer = machine(), machine(quota_cores=2.5, cpus=8), machine(isa=("avx2", "avx512f"))
    assert list(kinds_of(stored(plain, plain))) == [FAST]
    assert kinds_of([], plain.machine) == {FAST: plain.machine}
    assert kinds_of(stored(plain, limited)) == {
        f"{FAST} (cpus: 2, quota cores: none)": plain.machine,
        f"{FAST} (cpus: 8, quota cores: 2.5)": limited.machine,
    }
    kinds = kinds_of(stored(plain, newer, machine(cpu_model="Slow CPU", cores=1)))
    assert list(kinds) == [f"{FAST} (isa: avx512f)", f"{FAST} (isa: none)", "Slow CPU, 1 core"]
    assert chosen(kinds, f"{FAST} (isa: none)") == plain.machine


def test_benchmarks_are_weighed_for_their_own_kind_and_the_one_that_is_asked_for(tmp_path: Path) -> None:
    make_tiny_model(tmp_path, "tiny")
    registry = Registry([tmp_path], "tiny")
    facts = {name: ModelFacts.of(card) for name, card in registry.served_cards().items()}
    kept = [
        StoredBundle(f"run{number}", steady_benchmark(facts, {"tiny": 1 + number}, machine(cpus=2 + number)))
        for number in range(3)
    ]
    advice = advise_here(Constraints(), registry, kept, {"run9": "deleted"}, this_machine())
    assert set(advice.evidence.unused) == {"run0", "run1", "run2", "run9"}, "all of other kinds"
    assert [each.benchmarks for each in advice.others] == [1, 1, 1]
    assert sorted(each.evidence.used for each in advice.others) == [["run0"], ["run1"], ["run2"]]
    assert [each.evidence.unused for each in advice.others] == [{}, {}, {}]


def test_name_that_several_kinds_have_is_that_of_this_machine() -> None:
    plain, newer, slow = machine(), machine(isa=("avx2", "avx512f")), machine(cpu_model="Slow CPU")
    kinds = kinds_of(stored(plain, newer, slow))
    assert chosen(kinds, FAST, newer.machine) == newer.machine
    assert chosen(kinds, f"{FAST} (isa: none)", newer.machine) == plain.machine
    assert chosen(kinds, "Slow CPU, 2 cores", newer.machine) == slow.machine
    names = rf"\(allowed: {FAST} \(isa: avx512f\); {FAST} \(isa: none\)\)$"
    for here in (None, slow.machine):
        with pytest.raises(InvalidParameter, match=f"machine '{FAST}': 2 kinds have this name {names}"):
            chosen(kinds, FAST, here)
