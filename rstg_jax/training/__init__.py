"""Training: the experiment's configuration, the loop, steps, losses, optimisers, checkpoints."""
