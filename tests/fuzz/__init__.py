"""Fuzzer of decoding, of multipart forms and of cards: `python -m tests.fuzz --help`, docs/fuzzing.md."""
