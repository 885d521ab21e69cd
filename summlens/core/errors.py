"""The one exception that is meant for the user: a single line that says what is wrong and how to mend it."""

import errno
import sys
from contextlib import contextmanager


class UserError(Exception):
    """Raised for a mistake or a circumstance that the user can mend; its text is one clear line."""


@contextmanager
def one_line_errors():
    """Turn what a user can mend into one line on stderr and a non-zero exit; true bugs keep their traceback."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; what was written is whole, and --resume continues from there", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away: `… | head`
        sys.exit(1)
    except Exception as error:
        if is_disk_full(error):
            sys.exit("error: the disk is full (what was written is whole): free some space and continue with --resume")
        raise


# How Python, safetensors (Rust) and torch.save (C++, which sees only that fewer bytes arrived) put it.
_DISK_FULL = ("No space left on device", "StorageFull", "PytorchStreamWriter failed writing", "unexpected pos")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind `error`: the libraries wrap the system's error in types and words of their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in _DISK_FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
