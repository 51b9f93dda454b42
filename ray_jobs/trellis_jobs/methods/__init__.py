"""The methods of training: supervised, preference, continued pre-training."""
