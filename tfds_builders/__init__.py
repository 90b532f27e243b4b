"""TFDS builders; none of them needs TensorFlow."""
