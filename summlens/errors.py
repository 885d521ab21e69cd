"""The one exception that is meant for the user: a single line that says what is wrong and how to mend it."""

import sys
from contextlib import contextmanager


class UserError(Exception):
    """Raised for a mistake or a circumstance that the user can mend; its text is one clear line."""


@contextmanager
def one_line_errors():
    """Turn what a user can mend into one line on stderr and a non-zero exit, and let true bugs show their traceback."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped by Ctrl-C: what was written so far is complete; start again with --resume to continue")
    except OSError as error:
        if error.errno == 28:  # ENOSPC
            where = error.filename or "while writing"
            sys.exit(f"error: the disk is full ({where}): free some space, then continue with --resume")
        raise
