"""What runs on the cluster: `python -m trellis_jobs.tune` trains one adapter for one attempt of a tuning job."""
