"""How a command ends: its exit code, and one line where something is wrong. Needs no extra."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from .errors import Diverged, MissingExtra, SettingsError

EXIT_FAILED = 1
EXIT_BAD_SETTINGS = 2  # nothing has been done: a setting is wrong
EXIT_INTERRUPTED = 130  # what shells return after Ctrl-C


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Run a command and leave with its exit code; errors that a user can mend become one line.

    Args:
        main: returns an exit code, or None for 0.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has read enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    except SettingsError as error:
        leave(str(error), EXIT_BAD_SETTINGS)
    except (ValueError, OSError, Diverged, MissingExtra) as error:
        leave(_in_plain_words(error), EXIT_FAILED)
    except KeyboardInterrupt:
        leave("interrupted", EXIT_INTERRUPTED)
    sys.exit(code)


def _in_plain_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename} cannot be read or written ({error.strerror}): check the path"
    return str(error)


def leave(message: str, code: int) -> NoReturn:
    """Print an error as one line and leave the program."""
    parts = [part.strip() for part in message.splitlines()]
    print(f"error: {'; '.join(filter(None, parts))}", file=sys.stderr)
    sys.exit(code)
