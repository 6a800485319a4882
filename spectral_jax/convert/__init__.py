"""From dense to spectral parameters and back, and from one K to another."""
