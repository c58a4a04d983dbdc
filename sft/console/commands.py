"""How a script ends: 0 done, 2 the user's input, 130 interrupted, 1 anything else (a traceback: a bug of ours)."""

import io
import os
import sys
from collections.abc import Callable

from sft.console.narration import say
from sft.errors import UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXIT_FAILED = 1


def run_command(main: Callable[[], object]) -> None:
    """Run a script's main and end as every script of the project does: `if __name__ == "__main__": run_command(main)`.

    What is the user's to mend (UserError, PromptError) becomes one line `error: ...` on stderr and exit code 2, Ctrl-C
    one line and 130, a reader that went away (`| head`) silence and 1. Anything else is left to Python.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # where the locale is not UTF-8, Chinese must not end in a traceback
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
        sys.stdout.flush()  # a reader that went away is noticed here, not in the interpreter's last breath
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        sys.exit(EXIT_FAILED)
    except Exception as error:
        if not is_users_to_mend(error):
            raise
        say("error: " + " ".join(str(error).splitlines()), by_all=True)
        sys.exit(EXIT_USER_ERROR)


def is_users_to_mend(error: Exception) -> bool:
    """Whether an error is the user's: its text is one line that says what, where and what to do next."""
    from prompts import PromptError  # only where something went wrong: --help must not wait for it

    return isinstance(error, UserError | PromptError)
