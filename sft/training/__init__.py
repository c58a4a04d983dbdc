"""Training: encoded rows and a loaded model become a run folder. The flow is in sft.training.fit."""

import sft.models  # noqa: F401  silences what bitsandbytes says while it is imported, by whichever library
