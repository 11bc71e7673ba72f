"""Shared fixtures: a zoo with tiny ONNX classifiers, and photographs."""

from __future__ import annotations

import gc
import hashlib
import io
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from models.zoo.card import Card, InputSpec, ModelFile, Source, write_card
from tests.helpers.photographs import cat

TINY_CLASSES = 10
TINY_CHANNELS = 8
TINY_SIZE = 32

settings.register_profile("weighin", deadline=None)  # what an input takes depends on what else runs
settings.load_profile("weighin")


def pytest_sessionstart() -> None:
    """Restore the default SIGINT handler, which a shell disables for background jobs (`&`)."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()  # nothing that is collected goes before the end


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests of large photographs first: they take longest, and no other worker shall wait for them."""
    items.sort(key=lambda item: item.get_closest_marker("photos") is None)


def pytest_collection_finish() -> None:
    """Exclude modules and collected tests from garbage collection, and collect rarely.

    Modules live until the end. With Python's own thresholds, collections take a tenth of all tests' time.
    """
    gc.freeze()
    gc.set_threshold(100_000, 10, 10)
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Exclude what is left from pytest's last collection: the one just before it found no more garbage."""
    gc.freeze()


def make_tiny_model(folder: Path, name: str = "tiny", *, seed: int = 0, labels: str = "tiny-10") -> Path:
    """Write a real convolutional classifier with its card and labels to `folder/name` and return that folder.

    3x3 convolution of stride 2 (3 -> 8 channels), ReLU (`features`), global average pooling (`embedding`),
    one linear layer (`logits`, 10 classes), on (N, 3, 32, 32), with fixed random weights.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    weights = {
        "conv.weight": random.normal(0, 0.3, (TINY_CHANNELS, 3, 3, 3)).astype(np.float32),
        "conv.bias": random.normal(0, 0.1, (TINY_CHANNELS,)).astype(np.float32),
        "head.weight": random.normal(0, 1, (TINY_CLASSES, TINY_CHANNELS)).astype(np.float32),
        "head.bias": random.normal(0, 0.1, (TINY_CLASSES,)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node(
                "Conv", ["image", "conv.weight", "conv.bias"], ["conv"], strides=[2, 2], pads=[1, 1, 1, 1]
            ),
            helper.make_node("Relu", ["conv"], ["features"]),
            helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["embedding"]),
            helper.make_node("Gemm", ["embedding", "head.weight", "head.bias"], ["logits"], transB=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, TINY_SIZE, TINY_SIZE])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", TINY_CLASSES]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", TINY_CHANNELS]),
            helper.make_tensor_value_info(
                "features", TensorProto.FLOAT, ["N", TINY_CHANNELS, TINY_SIZE // 2, TINY_SIZE // 2]
            ),
        ],
        [numpy_helper.from_array(array, key) for key, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    target = folder / name
    target.mkdir(parents=True)
    content = model.SerializeToString()
    (target / "model.onnx").write_bytes(content)
    (target / "labels.txt").write_text("".join(f"thing {i}\n" for i in range(TINY_CLASSES)))
    elements = sum(array.size for array in weights.values())
    write_card(
        target,
        Card(
            name=name,
            labels=labels,
            classes=TINY_CLASSES,
            architecture="tiny",
            block="standard",
            precision="fp32",
            input=InputSpec(
                height=TINY_SIZE,
                width=TINY_SIZE,
                resize=TINY_SIZE + 4,
                mean=(127.0,) * 3,
                std=(128.0,) * 3,
                interpolation="bicubic",
            ),
            outputs={
                "logits": (TINY_CLASSES,),
                "embedding": (TINY_CHANNELS,),
                "features": (TINY_CHANNELS, TINY_SIZE // 2, TINY_SIZE // 2),
            },
            parameters=elements,
            macs=TINY_CHANNELS * 27 * (TINY_SIZE // 2) ** 2 + TINY_CLASSES * TINY_CHANNELS,
            file=ModelFile(
                name="model.onnx",
                bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                opset=17,
                initializer_elements=elements,
            ),
            source=Source(weights=f"random, seed {seed}", licence="Apache-2.0"),
        ),
    )
    return target


@pytest.fixture(scope="session")
def tiny_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a zoo with two tiny models of one label set, `tiny` and `tiny-b`. Do not change it."""
    folder = tmp_path_factory.mktemp("zoo")
    make_tiny_model(folder, "tiny", seed=0)
    make_tiny_model(folder, "tiny-b", seed=1)
    return folder


@pytest.fixture(scope="session")
def cat_jpeg() -> bytes:
    """Return a photograph of a cat, 451 x 300, as a JPEG of quality 90."""
    buffer = io.BytesIO()
    Image.fromarray(cat()).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def png() -> bytes:
    """Return a small PNG of a gradient."""
    ramp = np.linspace(0, 255, 48 * 64 * 3).reshape(48, 64, 3).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    return buffer.getvalue()
