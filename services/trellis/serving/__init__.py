"""The Ray Serve application of one base model: a replica holds the base once and many tenants' adapters."""
