"""Weights in: checkpoints of the official TensorFlow-1 code, PyTorch state dicts."""
