"""Training: encoded rows and a loaded model become a run folder. The flow is in sft.training.fit."""
