"""Arrays in, arrays out: the DCT, which coefficients are kept, the kernel."""
