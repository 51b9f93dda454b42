"""Images without a container engine: the Dockerfiles' own steps, done in a scratch folder."""
