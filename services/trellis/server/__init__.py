"""The control plane: gRPC services, the scheduler and the control loops. The database holds all of its state."""
