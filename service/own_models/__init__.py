"""Models from elsewhere: from an ONNX file to a folder of the zoo."""
