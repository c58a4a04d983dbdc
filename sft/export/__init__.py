"""From a run to weights that others can load: merged, GGUF, or on the hub, each compared with the run before it counts.

Import from the modules: sft.export.flow (export_run), sft.export.merge, sft.export.gguf_file, sft.export.hub.
"""
