"""Linear layers, norms and convolutions that the block and the models share."""
