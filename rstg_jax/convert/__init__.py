"""Weights in: official TensorFlow-1 variables."""
