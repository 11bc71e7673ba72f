"""usearch and onnxruntime live in one process."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_import_order_of_usearch() -> None:
    # usearch loaded before onnxruntime ends the process with a segmentation fault
    code = "import service.gallery.index.graph, onnxruntime"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
