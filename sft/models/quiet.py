"""Libraries that talk while they load are told not to: what matters, the scripts say themselves."""


def quiet_libraries() -> None:
    """No progress bars and no notes below an error from transformers and huggingface_hub."""
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
