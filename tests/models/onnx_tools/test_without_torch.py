"""Quantization and its bias correction run where torch is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.zoo.card import read_card
from tests.service.bench.doctor.networks import small

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import sys
sys.modules["torch"] = None
from pathlib import Path
import numpy as np
from models.onnx_tools.quantize import QuantizationPlan, quantize
from models.onnx_tools.session import open_session, run

source, target = map(Path, sys.argv[1:])
images = list(np.random.default_rng(0).normal(0, 1, (6, 1, 3, 56, 56)).astype(np.float32))
quantize(source, target, images, QuantizationPlan())
floating, integer = (run(open_session(path), images) for path in (source, target))
assert np.corrcoef(floating.ravel(), integer.ravel())[0, 1] > 0.98
"""


@pytest.mark.slow
def test_quantization_needs_no_torch(tmp_path: Path) -> None:
    folder = small().save(tmp_path, "small")
    target = tmp_path / "int8.onnx"
    source = folder / read_card(folder).file.name
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, source, target], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    weights = {tensor.name: tensor for tensor in onnx.load(target).graph.initializer}
    assert weights["pw1.weight_quantized"].data_type == onnx.TensorProto.INT8
    assert np.prod(weights["pw1.weight_quantized"].dims) == 64 * 32
