"""Lightweight image classifiers: blocks, networks, compression and export to the zoo."""

import os

# onnxruntime 1.32 keeps a device id in the home directory and looks up a telemetry host as soon as it
# is imported, unless this is set before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
