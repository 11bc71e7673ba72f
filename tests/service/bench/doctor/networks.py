"""Small real networks, clean or with one fault, for the doctor to look at."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from models.zoo.card import Card, InputSpec, ModelFile, Source, write_card

CLASSES = 10
ACTIVATION_SCALE, WEIGHT_SCALE = 0.02, 0.01


@dataclass
class Network:
    """A network as it grows: `last` is what the next layer takes, of `channels` and `size` x `size`."""

    input: int = 56
    channels: int = 3
    quantized: bool = False
    last: str = "image"
    macs: int = 0
    size: int = 0
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def __post_init__(self) -> None:
        self.size = self.input

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        """Add an operator named after its output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def conv(
        self, name: str, out: int, *, kernel: int = 1, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> Network:
        """A convolution, followed by ReLU; with `quantized`, both as QDQ with 8-bit weights."""
        shape = (out, self.channels // groups, kernel, kernel)
        weight = self.random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        taken, weight_name = self.last, f"{name}.weight"
        if self.quantized:
            taken = self._pair(taken, f"{name}.in")
            weight_name = self._weight(f"{name}.weight", weight)
        else:
            self.weights[weight_name] = weight
        self.size = (self.size + stride - 1) // stride
        self.macs += out * self.size**2 * int(np.prod(shape[1:]))
        self.channels = out
        pad = kernel // 2
        self.last = self.node(
            "Conv",
            [taken, weight_name],
            name,
            group=groups,
            strides=[stride] * 2,
            pads=[pad] * 4,
            kernel_shape=[kernel] * 2,
        )
        if relu:
            self.last = self.node("Relu", [self.last], f"{name}.relu")
        return self

    def batch_norm(self, name: str) -> Network:
        """Batch norm with random statistics."""
        names = [f"{name}.{part}" for part in ("scale", "bias", "mean", "var")]
        for each in names:
            self.weights[each] = self.random.uniform(0.5, 1.5, self.channels).astype(np.float32)
        self.last = self.node("BatchNormalization", [self.last, *names], name)
        return self

    def save(self, folder: Path, name: str, *, derived_from: str | None = None) -> Path:
        """Pool, classify, and write `folder/name` with its card; return that folder."""
        if self.quantized:
            self.last = self._pair(self.last, "end")
        self.weights["head.weight"] = self.random.normal(0, 0.3, (CLASSES, self.channels)).astype(np.float32)
        self.weights["head.bias"] = np.zeros(CLASSES, np.float32)
        self.node("GlobalAveragePool", [self.last], "pooled")
        self.node("Flatten", ["pooled"], "embedding")
        self.node("Gemm", ["embedding", "head.weight", "head.bias"], "logits", transB=1)
        self.macs += CLASSES * self.channels
        return self._write(folder, name, derived_from)

    def _write(self, folder: Path, name: str, derived_from: str | None) -> Path:
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, self.input, self.input])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
            [numpy_helper.from_array(value, key) for key, value in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        content = model.SerializeToString()
        target = folder / name
        target.mkdir(parents=True)
        (target / "model.onnx").write_bytes(content)
        (target / "labels.txt").write_text("".join(f"thing {i}\n" for i in range(CLASSES)))
        elements = sum(value.size for value in self.weights.values())
        card = Card(
            name=name,
            labels="tiny-10",
            classes=CLASSES,
            architecture="test",
            block="standard",
            precision="int8" if self.quantized else "fp32",
            input=InputSpec(
                height=self.input,
                width=self.input,
                resize=self.input,
                mean=(127.0,) * 3,
                std=(128.0,) * 3,
                interpolation="bicubic",
            ),
            outputs={"logits": (CLASSES,)},
            parameters=elements,
            macs=self.macs,
            file=ModelFile(
                name="model.onnx",
                bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                opset=17,
                initializer_elements=elements,
            ),
            derived_from=derived_from,
            source=Source(weights="random", licence="Apache-2.0"),
        )
        write_card(target, card)
        return target

    def _pair(self, taken: str, name: str) -> str:
        self._scales()
        q = self.node("QuantizeLinear", [taken, "scale", "zero"], f"{name}.q")
        return self.node("DequantizeLinear", [q, "scale", "zero"], f"{name}.dq")

    def _weight(self, name: str, weight: NDArray[np.float32]) -> str:
        self._scales()
        rounded = np.clip(np.round(weight / WEIGHT_SCALE), -127, 127).astype(np.int8)
        self.weights[f"{name}.q"] = rounded
        return self.node("DequantizeLinear", [f"{name}.q", "weight_scale", "weight_zero"], name)

    def _scales(self) -> None:
        self.weights["scale"] = np.array(ACTIVATION_SCALE, np.float32)
        self.weights["zero"] = np.array(0, np.uint8)
        self.weights["weight_scale"] = np.array(WEIGHT_SCALE, np.float32)
        self.weights["weight_zero"] = np.array(0, np.int8)


def small(network: Network | None = None) -> Network:
    """Convolution, depthwise, pointwise twice, channels multiples of 16: nothing is wrong with it."""
    network = network or Network()
    network.conv("stem", 32, kernel=3, stride=2)
    network.conv("dw", 32, kernel=3, groups=32)
    return network.conv("pw1", 64).conv("pw2", 64)
