"""The transformer, and text from it."""
