"""Recurrent space-time graph networks for video in JAX and Flax.

Start with `rstg_jax.rstg.RSTG` and `rstg_jax.rstg.presets` for the block,
`rstg_jax.models.classifier` for whole classifiers and `rstg_jax.training.train_loop.train` for
training.
"""
