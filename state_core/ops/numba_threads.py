"""One thread count for torch and Numba, on the OpenMP layer.

Every `cpu.py` imports `match_torch_threads` from here and calls it before it launches a kernel.
Importing this module asks Numba for its OpenMP layer: its default fallback (`workqueue`) aborts
the process when two Python threads launch kernels at once, and autograd may run a backward pass on
a thread of its own.

Where torch brings GNU OpenMP, as on Linux, Numba's layer binds to the same library and so to the
same pool of threads. Launching that pool sets the library's thread count to all cores, which would
undo `torch.set_num_threads` and OMP_NUM_THREADS: it is launched here, and torch's count put back.
OMP_WAIT_POLICY=passive makes small parallel kernels several times slower, so nothing else is set.
"""

from __future__ import annotations

import numba
import torch

numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]

_before = torch.get_num_threads()
numba.get_num_threads()  # launches the pool
torch.set_num_threads(_before)


def match_torch_threads(tasks: int | None = None) -> None:
    """Give Numba's next launch, on this Python thread, as many threads as torch has.

    No more than `tasks`, if that is given: a launch on one thread wakes no other, which matters
    to a kernel that decodes one token.
    """
    wanted = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    if tasks is not None:
        wanted = max(min(wanted, tasks), 1)
    if numba.get_num_threads() != wanted:
        numba.set_num_threads(wanted)
