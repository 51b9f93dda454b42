"""Training on several workers with DeepSpeed under Ray Train: full tuning, NF4, and what one device can't hold."""
