"""Rows as the model sees them: the views that inspect_data.py prints, and the page it writes."""
