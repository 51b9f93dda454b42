"""What `tests.bench.serving_gpu` is made of, beside `tests.bench.serving_rig`."""
