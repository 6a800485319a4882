"""Settings, optimizer, train step, checkpoints, reports, and the loop."""
