"""Building a dataset folder: sources are digested, rows chosen by quota, kept apart by split, and written."""
