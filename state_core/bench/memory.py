"""Peak memory of one call: the bytes that it needs beyond what its inputs hold.

On the CPU that is the resident high-water mark, which sees every allocator (torch's, Numba's, a
peer's). Each figure is taken in a process of its own (`probe.py`), so that one contender's
leftovers stay out of another's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from state_core.bench.case import Shape, Thunk
from state_core.errors import SOSMError

PROBE = "state_core.bench.probe"


class MemoryProbeError(SOSMError, RuntimeError):
    """The measuring process failed; its last words are in the message."""


def peak_memory(case: str, contender: str, shape: Shape, device: torch.device) -> int:
    """Bytes at the peak of one call beyond its inputs. Takes a few seconds to start a process."""
    command = [sys.executable, "-m", PROBE, case, contender, json.dumps(shape), str(device)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise MemoryProbeError(f"cannot measure the memory of {contender} in {case}: {last}")
    return int(done.stdout.strip().splitlines()[-1])


def measure(thunk: Thunk, device: torch.device) -> int:
    """Bytes at the peak of one call, in this process."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        thunk()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    reset_high_water()
    before = resident()
    thunk()
    return max(0, high_water() - before)


def reset_high_water() -> None:
    """Let the high-water mark start again from what is resident now, where the system can."""
    clear_refs = Path("/proc/self/clear_refs")
    if clear_refs.exists():
        clear_refs.write_text("5")


def resident() -> int:
    """Resident bytes of this process; outside Linux its high-water mark so far."""
    return _status("VmRSS") or _max_rss()


def high_water() -> int:
    """The most resident bytes since `reset_high_water`."""
    return _status("VmHWM") or _max_rss()


def _status(key: str) -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(li for li in status.read_text().splitlines() if li.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def _max_rss() -> int:
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
