"""Soak: mixed traffic with faults, and what must hold afterwards: `python -m tests.soak`, docs/soak.md."""
