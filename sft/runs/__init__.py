"""Run folders: run.json, checkpoints, the classes of a head, the system prompt."""
