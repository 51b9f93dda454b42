"""What runs on the cluster: the shared trainers, the distributed ones, and exports."""
