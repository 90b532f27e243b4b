"""Linear layers, norms, convolutions, transformer blocks, RoIAlign: what models and block share."""
