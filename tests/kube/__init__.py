"""A stand-in for Kubernetes: its API over real HTTP, with KubeRay's operator and nodes whose containers are processes."""
