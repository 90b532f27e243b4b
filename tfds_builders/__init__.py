"""Builders of TFDS data sets; each needs no TensorFlow."""
