"""The zoo: a folder per model with `model.onnx` and `card.json`; needs numpy, Pillow and pydantic, no torch."""
