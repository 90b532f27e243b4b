"""Recurrent space-time graph networks for video in JAX and Flax.

Start with `rstg_jax.rstg.RSTG` and `rstg_jax.presets` for the block, `rstg_jax.models` for whole
classifiers and `rstg_jax.loop.train` for training.
"""
