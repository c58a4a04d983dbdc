"""Rows of tokens laid out for the model: batches, shared prefixes, encoding of rows, work dealt out to CPU cores."""
