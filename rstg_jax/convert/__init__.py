"""Weights in and out: the official TensorFlow-1 code's, other projects', a run as one file."""
