"""The rooms behind the scripts; each module is named after what it holds."""
