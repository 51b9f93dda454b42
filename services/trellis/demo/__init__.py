"""The demonstration: two tenants, two small tasks, one base model, from data to served adapters."""
