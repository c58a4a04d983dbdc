"""The Hugging Face hub as a source of rows: a pinned commit, streamed, opened again where the connection breaks.

`datasets` and `huggingface_hub` are imported where a connection is made, not before.
"""
