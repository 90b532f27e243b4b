"""Networks that turn frames into feature maps."""
