"""Tools for ONNX files. They need no torch, and import the onnx package inside functions."""
