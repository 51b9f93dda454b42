"""Ray on Kubernetes through KubeRay's objects: RayJob, RayCluster and RayService."""
