"""Measurements: timings and training comparisons, side by side in one run."""
