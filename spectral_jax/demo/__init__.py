"""A trained model in a browser: what the page is served, and its runtime."""
