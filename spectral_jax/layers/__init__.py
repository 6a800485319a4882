"""Flax layers whose parameters are not their kernels."""
