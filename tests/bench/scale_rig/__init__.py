"""What the benchmark of scale measures on."""
