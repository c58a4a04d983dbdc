"""Models: which weights a name means, and where and how they are loaded.

Import from the modules: sft.models.loading (load_base, load_run, ...), sft.models.source, sft.models.source. No model
library is imported here, because sft.backend has to import unsloth before anything below imports transformers.
"""

import logging

# On a CPU bitsandbytes warns, while it is imported, of kernels that are not needed; too late to switch off then.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
