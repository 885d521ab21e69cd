"""The processes of one run: one a device, started by torchrun or srun; rank 0 speaks and writes, the others wait.

A run of one process has rank 0 of 1, and nothing here costs it anything. No torch is imported before it is needed:
`--help` and a wrong option are answered at once.
"""

import logging
import os
import sys
import time
from contextlib import contextmanager
from datetime import timedelta

from summlens.core.errors import UserError

# How long a process waits for the others before it gives up: longer than any capture or evaluation that one of them
# does alone. A process that dies does not keep the others waiting: the launcher ends them.
_PATIENCE = timedelta(days=2)
_LISTENING = 30  # seconds that rank 0 has to say an error first, and the launcher to end the others


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """How many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def one_voice():
    """What goes wrong in every process alike is said once; what goes wrong in one alone is said a moment later."""
    if rank() > 0:
        os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    except KeyboardInterrupt:
        if rank() > 0:
            sys.exit(130)
        raise
    except Exception:
        if rank() > 0:
            time.sleep(_LISTENING)
        raise


def start() -> None:
    """Join the run's process group, where there is one. Raises UserError where this machine cannot hold the process."""
    if rank() > 0:
        logging.getLogger("summlens").setLevel(logging.ERROR)
    if world() == 1:
        return
    import torch

    if torch.cuda.is_available():
        local, devices = int(os.environ.get("LOCAL_RANK", rank())), torch.cuda.device_count()
        if local >= devices:
            raise UserError(f"{local + 1} or more processes on a machine with {devices} GPUs: start one process a GPU")
        torch.cuda.set_device(local)
    elif torch.backends.mps.is_available():
        raise UserError("several processes cannot share an Apple GPU: start one process")
    # Tensors on the GPU travel by NCCL; waiting goes by gloo, which leaves the GPU alone.
    torch.distributed.init_process_group(
        "cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE
    )


def stop() -> None:
    if world() > 1:
        import torch

        wait()
        torch.distributed.destroy_process_group()


def wait() -> None:
    """Until every process is here."""
    anywhere(False)


def anywhere(flag: bool) -> bool:
    """Whether `flag` is true in any process. Every process must ask."""
    if world() == 1:
        return flag
    import torch

    flags = torch.tensor(int(flag))
    torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return bool(flags)


def total(values: list[float]) -> list[float]:
    """Each value summed over the processes, in float64. Every process must ask."""
    if world() == 1:
        return values
    import torch

    sums = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(sums)
    return sums.tolist()


def from_rank_zero(make):
    """What `make()` gives in rank 0, in every process; the others do not call it."""
    if world() == 1:
        return make()
    import torch

    answer = [make() if rank() == 0 else None]
    torch.distributed.broadcast_object_list(answer, device=torch.device("cpu"))
    return answer[0]


@contextmanager
def rank_zero_first():
    """The others come in when rank 0 is through and find what it left in the caches."""
    if rank() > 0:
        wait()
    yield
    if rank() == 0:
        wait()


def workers(rows: int) -> int | None:
    """Processes for a pass over the rows: one for each 5,000, as far as there are cores; None = in this process."""
    workers = min(os.cpu_count() or 1, rows // 5_000)
    return workers if workers > 1 else None
