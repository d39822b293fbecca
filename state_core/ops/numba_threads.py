"""One thread count for torch and Numba, on the OpenMP layer.

Every `cpu.py` imports `match_torch_threads` from here and calls it before it launches a kernel.
Importing this module asks Numba for its OpenMP layer: its default fallback (`workqueue`) aborts
the process when two Python threads launch kernels at once, and autograd may run a backward pass on
a thread of its own.

Torch's and Numba's OpenMP runtimes are two libraries with a pool of threads each. Measured with
kernels of 30 to 200 us that alternate, the pools do not get into each other's way, while
OMP_WAIT_POLICY=passive makes a small parallel kernel several times slower. So nothing else is set.
"""

from __future__ import annotations

import numba
import torch

numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]


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
