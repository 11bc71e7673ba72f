"""Damaged ONNX files are refused or described: nothing crashes, hangs, or raises anything else."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError, Message
from onnx import helper

from models.onnx_tools.describe import describe
from models.onnx_tools.inspect import UnreadableModel
from models.onnx_tools.prepare import consolidate, prepare
from tests.models.onnx_tools.graphs import FLATTEN, GEMM, POOL, chain, model, parsed
from tests.models.onnx_tools.test_prepare import HEADS, NO_MAPS, integer_head, made

ROOT = Path(__file__).resolve().parents[3]
INPUTS = 600


def seeds() -> list[bytes]:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["y"])], "b", [], [helper.make_tensor_value_info("y", 1, None)]
    )
    choice = [helper.make_node("If", ["c"], ["logits"], then_branch=branch, else_branch=branch)]
    body = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1),
    ]
    layer = helper.make_function("own", "Head", ["x", "w", "b"], ["y"], body, [helper.make_opsetid("", 17)])
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["p"]),
        helper.make_node("Head", ["p", "w", "b"], ["logits"], domain="own"),
    ]
    external = parsed(chain(POOL, FLATTEN, GEMM))
    tensor = external.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    for key, value in (("location", "data"), ("offset", "0"), ("length", "648")):
        tensor.external_data.add(key=key, value=value)
    return [
        *(made(name) for name in HEADS),
        *(integer_head(op) for op in ("QGemm", "QLinearMatMul", "QLinearConv", "dynamic")),
        *(chain(*steps) for steps, _ in NO_MAPS.values()),
        model(choice, weights={"c": np.array(True)}),
        model(nodes, domains=["own"], functions=[layer]),
        external.SerializeToString(),
    ]


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """Change bytes, or fields of the message."""
    if chance.random() < 0.3:
        content = bytearray(seed)
        for _ in range(chance.choice((1, 1, 3, 10))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        return bytes(content[: chance.choice((len(content), chance.randrange(len(content))))])
    message = onnx.ModelProto.FromString(seed)
    for _ in range(chance.choice((1, 1, 2, 5))):
        _change(chance.choice(_messages(message)), chance, message)
    return message.SerializeToString()


def _messages(root: Any) -> list[Any]:
    found, pending = [], [root]
    while pending:
        message = pending.pop()
        found.append(message)
        for field, value in message.ListFields():
            if field.message_type is not None:
                pending.extend(value if field.is_repeated else [value])
    return found


def _change(message: Any, chance: random.Random, root: onnx.ModelProto) -> None:
    fields = message.ListFields()
    if not fields:
        return
    field, value = chance.choice(fields)
    if isinstance(value, Message) or chance.random() < 0.1:
        message.ClearField(field.name)
    elif field.is_repeated:
        at = chance.randrange(len(value))
        match chance.choice(("drop", "repeat", "other")):
            case "drop":
                del value[at]
            case "repeat" if isinstance(value[at], Message):
                value.add().CopyFrom(value[at])
            case _ if not isinstance(value[at], Message):
                value[at] = _other(value[at], chance, root)
    else:
        setattr(message, field.name, _other(value, chance, root))


def _other(value: Any, chance: random.Random, root: onnx.ModelProto) -> Any:
    if isinstance(value, str):
        names = [name for node in root.graph.node for name in (*node.input, *node.output, node.op_type)]
        return chance.choice((*names, "", "Gemm", "Mul", "Expand", "Range", "x" * 300))
    if isinstance(value, bytes):
        return value[: chance.randrange(len(value) + 1)]
    if isinstance(value, int):
        return chance.choice((0, 1, 2, 3, 4, 5, 7, 10, 16, -1, 2**31 - 1, -(2**31)))
    return chance.choice((0.0, -1.0, float("nan"), float("inf")))


def run(first: int, count: int, folder: Path) -> int:
    """Read mutated files; return how many were read whole."""
    files = seeds()
    (folder / "data").write_bytes(bytes(700))
    path, whole = folder / "model.onnx", 0
    for index in range(first, first + count):
        chance = random.Random(index)
        try:
            content = mutated(chance.choice(files), chance)
        except (ValueError, TypeError, DecodeError):  # a value that the field cannot have
            continue
        path.write_bytes(content)
        try:
            content = consolidate(path)
            facts = describe(content, (8, 8))
            for output in facts.outputs:
                prepared = prepare(content, output.name)
                assert (prepared.embedding is None) == (prepared.reason is not None)
            whole += 1
        except UnreadableModel:
            continue
        except Exception as error:
            raise AssertionError(f"input {index}") from error
    return whole


@pytest.mark.slow
def test_damaged_files_raise_one_error(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.models.onnx_tools import test_damaged_files as t; "
    )
    program += "print(t.run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))"
    done = subprocess.run(
        [sys.executable, "-c", program, "0", str(INPUTS), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert INPUTS * 0.2 < int(done.stdout) < INPUTS * 0.9
