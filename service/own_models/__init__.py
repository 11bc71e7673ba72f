"""Add ONNX files from elsewhere to a zoo and to a running service; quantize models to int8."""
