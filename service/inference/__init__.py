"""Run models on images: decode, preprocess, infer, postprocess."""
