"""Jobs that run by themselves, on DeepSpeed over one or several workers."""
