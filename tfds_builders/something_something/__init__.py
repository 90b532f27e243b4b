"""Something-Something for TFDS."""
