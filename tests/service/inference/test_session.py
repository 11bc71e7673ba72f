"""A session loads one file and nothing else, and says in the runtime's words why it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from models.zoo.card import Card, read_card
from service.inference.runtime_errors import runtime_words
from service.inference.runtimes.base import SessionError, check_self_contained
from service.inference.runtimes.opening import open_session
from service.inference.session import OnnxSession, optimized_graph, profiled_runs
from tests.helpers.networks import put_file, save_network


@pytest.fixture
def external(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder whose weights are in another file, which the working directory has too."""
    folder = save_network(tmp_path / "zoo", "external")
    model = onnx.load(folder / "model.onnx")
    onnx.save_model(
        model,
        folder / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
        convert_attribute=True,
    )
    put_file(folder, (folder / "model.onnx").read_bytes())
    (tmp_path / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    monkeypatch.chdir(tmp_path)
    return folder


def load_for_serving(content: bytes, card: Card) -> object:
    return OnnxSession(content, card)


def load_for_a_benchmark(content: bytes, card: Card) -> object:
    return open_session("onnxruntime", content, card)


def optimize(content: bytes, _: Card) -> object:
    return optimized_graph(content)


def profile(content: bytes, _: Card) -> object:
    return profiled_runs(content, 1)


LOADERS = [load_for_serving, load_for_a_benchmark, optimize, profile]


@pytest.mark.parametrize("load", LOADERS)
def test_external_data_is_refused(external: Path, load: Callable[[bytes, Card], object]) -> None:
    content = (external / "model.onnx").read_bytes()
    with pytest.raises(SessionError, match=r"external data \(weights.bin\).*save it as one file"):
        load(content, read_card(external))


def test_many_files_are_counted() -> None:
    tensors = []
    for number in range(5):
        tensor = onnx.TensorProto(name=f"w{number}", data_type=1, dims=[1], data_location=1)
        tensor.external_data.add(key="location", value=f"part-{number}")
        tensors.append(tensor)
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], tensors))
    with pytest.raises(SessionError, match=r"\(part-0, part-1, part-2 and 2 more\)"):
        check_self_contained(model.SerializeToString())


def test_ort_format_is_refused(tmp_path: Path) -> None:
    """It may refer to other files as well, and nothing looks into it."""
    import onnxruntime

    folder = save_network(tmp_path, "own-format")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    with pytest.raises(SessionError, match=r"cannot load the model: .*in ONNX Runtime's own format"):
        OnnxSession((tmp_path / "model.ort").read_bytes(), read_card(folder))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/graph/model.cc:256 "
            "onnxruntime::Model::Model(onnx::ModelProto&&, const std::function<void(int)>&) "
            "Unsupported model IR version: 99, max supported IR version: 14\n",
            "Unsupported model IR version: 99, max supported IR version: 14",
        ),
        (
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code returned while running Gather "
            "node. Name:'/head/Gather_1' Status Message: idx=100 must be within [-10,9]",
            "Non-zero status code returned while running Gather node. Name:'/head/Gather_1' Status Message: "
            "idx=100 must be within [-10,9]",
        ),
        ("Got: 1 Expected: 8\n Please fix the model.", "Got: 1 Expected: 8 Please fix the model"),
        (
            'does not exist: "/tmp/some where/w.bin", see /usr/lib/x.so',
            'does not exist: "some where/w.bin", see x.so',
        ),
        ("Exception from src/core/core.cpp:92:\nException from src/onnx/front.cpp:37:\nbad", "bad"),
        ("tab\x1b[31mred\x07", "tab?[31mred?"),
        ("x" * 1000, "x" * 497 + "..."),
        ("", "RuntimeError"),
    ],
)
def test_runtime_message_without_paths(message: str, words: str) -> None:
    assert runtime_words(RuntimeError(message)) == words


@pytest.mark.slow
def test_a_hostile_message_takes_no_time() -> None:
    for message in ("a.cc:1 " + "(" * 4000, "a.cc:1 " + "a(" * 2000, "/" * 5000, "a:" * 2500, "/a" * 10**6):
        assert len(runtime_words(RuntimeError(message))) <= 500


def test_memory_that_runs_out_is_said() -> None:
    assert runtime_words(MemoryError()) == "not enough memory"
