"""Texts that a model writes: one loop for every runtime."""
