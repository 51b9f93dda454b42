"""What `tests.bench.training` is made of; imports nothing, so that a peer's own environment can use the light parts."""
