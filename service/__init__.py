"""Weigh-in: serves ONNX image classifiers and detectors over HTTP, and records their latency."""

import os

# On import, onnxruntime 1.32 writes a device id to the home directory and resolves a telemetry host,
# unless this variable is set.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
