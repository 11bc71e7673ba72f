"""A small generated network that takes about a millisecond per run, for faster experiments."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from models.zoo.card import Card, InputSpec, ModelFile, Source, write_card

NAME = "separable-81m"
_SIDE = 224
_CLASSES = 100
# (channels out, stride) of each depthwise-separable block, after a 3x3 convolution of stride 2 to 32 channels
_BLOCKS = ((64, 1), (128, 2), (128, 2))


def make_network(folder: Path) -> Path:
    """Write the network with its card to `folder`/NAME, unless it exists, and return its folder.

    The weights are random and He-scaled. So activations are as large as in a trained network, and no number
    is denormal.
    """
    target = folder / NAME
    if (target / "card.json").exists():
        return target
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    nodes, weights = [], []
    macs = 0

    def convolution(
        source: str, name: str, inputs: int, outputs: int, kernel: int, stride: int, groups: int
    ) -> str:
        nonlocal macs
        fan_in = inputs // groups * kernel * kernel
        shape = (outputs, inputs // groups, kernel, kernel)
        weight = random.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
        bias = random.normal(0, 0.05, outputs).astype(np.float32)
        weights.extend(
            [numpy_helper.from_array(weight, f"{name}.w"), numpy_helper.from_array(bias, f"{name}.b")]
        )
        pad = kernel // 2
        nodes.append(
            helper.make_node(
                "Conv",
                [source, f"{name}.w", f"{name}.b"],
                [f"{name}.conv"],
                strides=[stride, stride],
                pads=[pad] * 4,
                group=groups,
            )
        )
        nodes.append(helper.make_node("Relu", [f"{name}.conv"], [name]))
        side[name] = side[source] // stride
        macs += weight.size * side[name] ** 2
        return name

    side = {"image": _SIDE}
    at = convolution("image", "stem", 3, 32, 3, 2, 1)
    channels = 32
    for number, (outputs, stride) in enumerate(_BLOCKS):
        at = convolution(at, f"block{number}.dw", channels, channels, 3, stride, channels)
        at = convolution(at, f"block{number}.pw", channels, outputs, 1, 1, 1)
        channels = outputs
    head = random.normal(0, np.sqrt(1 / channels), (_CLASSES, channels)).astype(np.float32)
    weights.append(numpy_helper.from_array(head, "head.w"))
    nodes.append(helper.make_node("GlobalAveragePool", [at], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["embedding"]))
    nodes.append(helper.make_node("Gemm", ["embedding", "head.w"], ["logits"], transB=1))
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, _SIDE, _SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", _CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    elements = sum(int(np.prod(weight.dims)) for weight in weights)
    target.mkdir(parents=True, exist_ok=True)
    (target / "model.onnx").write_bytes(content)
    write_card(
        target,
        Card(
            name=NAME,
            labels="none-100",
            classes=_CLASSES,
            architecture=NAME,
            block="depthwise-separable",
            precision="fp32",
            input=InputSpec(
                height=_SIDE,
                width=_SIDE,
                resize=_SIDE,
                mean=(127.0,) * 3,
                std=(128.0,) * 3,
                interpolation="bilinear",
            ),
            outputs={"logits": (_CLASSES,)},
            parameters=elements,
            macs=macs + head.size,
            file=ModelFile(
                name="model.onnx",
                bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                opset=17,
                initializer_elements=elements,
            ),
            source=Source(weights="random, seed 0", licence="Apache-2.0"),
        ),
    )
    return target
