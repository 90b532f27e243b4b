"""Whole video classifiers: backbones, heads, RSTG blocks at named places."""
