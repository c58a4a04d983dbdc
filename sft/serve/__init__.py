"""A run over HTTP: OpenAI's API around this project's own prompts and generation.

Import from the modules: sft.serve.server (serve), sft.serve.app (build_app), sft.serve.engine, sft.serve.vllm.
"""
