"""What training and serving share: many adapters beside one base model."""
