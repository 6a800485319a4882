"""What `python -m spectral_jax VERB` does with what a run left behind."""
