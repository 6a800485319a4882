"""A trained model in files that are small, or that other runtimes read."""
