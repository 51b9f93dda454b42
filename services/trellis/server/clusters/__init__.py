"""Where jobs and engines run: Ray's Job Submission API and Ray Serve."""
