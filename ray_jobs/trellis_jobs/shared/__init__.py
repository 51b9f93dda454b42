"""The shared trainer: one base model, and the LoRA jobs of many tenants in one forward and backward."""
