"""Models from elsewhere: from an ONNX file to a folder of the zoo, and from there into a running service."""
