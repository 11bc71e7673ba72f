"""Compress networks: pruning, distillation, quantization and architecture search."""
