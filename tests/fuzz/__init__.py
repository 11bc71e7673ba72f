"""Fuzzer of image decoding, multipart forms and model cards: `python -m tests.fuzz`, docs/fuzzing.md."""
