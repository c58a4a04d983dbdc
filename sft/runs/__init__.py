"""Run folders: what is written of a run, its checkpoints, the classes of its head, its system prompt."""
