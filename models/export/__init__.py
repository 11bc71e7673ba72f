"""Write a network as an ONNX file that computes the same."""
