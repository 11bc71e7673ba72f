"""Lightweight image classifiers: blocks, networks, compression and export to the zoo."""

import os

# As soon as it is imported, onnxruntime 1.32 stores a device id in the home directory and looks up a
# telemetry host, unless this variable is set.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
