"""The graph of the service's `non_max_suppression.onnx`: `python -m tests.helpers.suppression_graph`."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto, helper

PATH = Path(__file__).parents[2] / "service" / "inference" / "detection" / "non_max_suppression.onnx"


def suppression_graph() -> bytes:
    """Return an ONNX file of one NonMaxSuppression operator on any number of boxes and classes."""
    inputs = {
        "boxes": (TensorProto.FLOAT, [1, "boxes", 4]),
        "scores": (TensorProto.FLOAT, [1, "classes", "boxes"]),
        "max_output_boxes_per_class": (TensorProto.INT64, [1]),
        "iou_threshold": (TensorProto.FLOAT, [1]),
        "score_threshold": (TensorProto.FLOAT, [1]),
    }
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", list(inputs), ["selected"])],
        "non_max_suppression",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("selected", TensorProto.INT64, ["selected", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


if __name__ == "__main__":
    PATH.write_bytes(suppression_graph())
