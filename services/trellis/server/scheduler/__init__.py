"""Which queued jobs start now, and why the others wait: pure decisions over a snapshot."""
