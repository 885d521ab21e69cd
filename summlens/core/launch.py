"""Start a script in N processes of this machine by torchrun, with one line where its own report would be a page.

python -m summlens.core.launch N SCRIPT.py [options of the script]
"""

import logging
import os
import sys

from summlens.core.config import parse_command_line
from summlens.core.errors import UserError, one_line_errors


def launch(processes: int, command: list[str]) -> int:
    """Run `command` (a script and its arguments) in that many processes; the exit code of the first that failed."""
    # Only now, what takes a second to import.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    logging.disable(logging.ERROR)  # the launcher's own; the processes say what is wrong
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // processes)))
    try:
        main(["--standalone", "--nproc-per-node", str(processes), *command])
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code  # as a shell puts a signal
    except SignalException as error:
        return 128 + error.sigval
    return 0


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--processes must be a whole number above zero, it is {text!r}")
    return int(text)


if __name__ == "__main__":
    with one_line_errors():
        processes = _number(sys.argv[1])
        parse_command_line(sys.argv[3:], processes=processes)  # what is wrong is said once, before anything starts
        raise SystemExit(launch(processes, sys.argv[2:]))
