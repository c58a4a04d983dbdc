"""Models: which weights a name means, and where and how they are loaded.

Import from the modules: sft.models.loading (load_base, load_run, ...), sft.models.source, sft.models.source. No model
library is imported here, because sft.backend has to import unsloth before anything below imports transformers.
"""

import logging

# On a CPU bitsandbytes warns, while it is imported, of kernels nobody needs; it cannot be told so afterwards.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
