"""The zoo: a folder per model with `model.onnx` and `card.json`; no torch needed."""
