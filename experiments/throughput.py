"""How many tokens a second phases 2 and 6 train on and read, beside a transformer of equal size.

All arms have as many parameters as phase 6 (±2 %), a batch holds about as many tokens at every
length, and all compute in float32. Trained is a whole step: forward, backward, optimiser. Read is
one forward pass that gives all logits; phase 6 reads its memory, full, and adds to it. Arms take
turns in one process, and a ratio is the median of those within each turn. Peak memory is that of a
process which does nothing else, the whole of it.

    python -m experiments.throughput --threads 2
    python -m experiments.throughput --lengths 32 64 --tokens 64 --seconds 0    # does it run?
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from state_core.atomic import atomic_write_json
from state_core.audit import audit_causality
from state_core.bench.cases.model import Trainer, text_like_ids
from state_core.bench.memory import MemoryProbeError, high_water, measure
from state_core.bench.timing import Spread, interleave, ratios
from state_core.config import SOSMConfig
from state_core.errors import CausalityError
from state_core.machine import machine, versions
from state_core.memory.text_memory import TextMemory
from state_core.pipeline import SOSM
from state_core.training.baselines import count_parameters, matched_baseline, widened
from state_core.training.malloc import keep_large_blocks

PEER = "transformer"
WORK = ("train", "read")
LIMIT = 12 * 2**30  # bytes within which phase 6 should train on its longest text
WARM_UP = 64  # tokens of a first call, which compiles
CPU = torch.device("cpu")


def arms() -> dict[str, SOSMConfig]:
    """The phases and the transformer, all as large as phase 6."""
    phase6 = SOSMConfig.preset("phase6")
    return {
        "phase2": widened(SOSMConfig.preset("phase2"), count_parameters(phase6)),
        "phase6": phase6,
        PEER: matched_baseline(phase6, "transformer"),
    }


def prepare(config: SOSMConfig, work: str, ids: Tensor) -> Callable[[], object]:
    """The call to be measured on ids [B,T], compiled already."""
    torch.manual_seed(0)
    model = SOSM(config)
    memory = filled_memory(model, ids)
    if work == "train":
        step = Trainer(model, ids[:1, :WARM_UP])
        step()
        step.ids, step.memory = ids, memory
        return step
    torch.set_float32_matmul_precision(config.train.matmul)

    @torch.inference_mode()
    def read() -> Tensor:
        out = model(ids, memory=memory)
        if memory is not None:
            memory.append(ids, out.keepsake)
        logits: Tensor = out.logits
        return logits

    model.eval()(ids[:1, :WARM_UP])
    return read


@torch.no_grad()
def filled_memory(model: SOSM, ids: Tensor) -> TextMemory | None:
    """A memory that holds as much as it can, as in the middle of a text; None without one."""
    if not model.config.memory.enabled:
        return None
    memory = model.new_memory(len(ids))
    keepsake = model.eval()(ids, memory=memory).keepsake
    for _ in range(-(-memory.capacity // (ids.shape[1] - 1))):
        memory.append(ids, keepsake)
    return memory


def batch(length: int, tokens: int) -> Tensor:
    """Ids [B,T] of about `tokens` tokens in texts of `length`."""
    vocabulary = SOSMConfig.preset("phase6").vocab_size
    return text_like_ids(max(1, tokens // length), length, vocabulary, CPU)


def audited(configs: dict[str, SOSMConfig]) -> None:
    """CausalityError if an arm sees the future: its speed would mean nothing."""
    for name, config in configs.items():
        if not (report := audit_causality(SOSM(config))).passed:
            raise CausalityError(f"{name} is not timed.\n{report}")


def measure_length(
    length: int, tokens: int, seconds: float, threads: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """A record of each arm at a length: speed, its ratio to the transformer's, and peak memory."""
    ids = batch(length, tokens)
    shape = {"T": length, "B": len(ids)}
    found = {
        name: {**shape, "arm": name, "parameters": count_parameters(config)}
        for name, config in arms().items()
    }
    for work in WORK:
        say(f"T = {length:,}, B = {len(ids)}: {work}, in turns")
        thunks = {name: prepare(config, work, ids) for name, config in arms().items()}
        times = interleave(thunks, CPU, seconds)
        del thunks  # what they hold is not the next one's
        for name, record in found.items():
            say(f"T = {length:,}: peak memory of {name}, {work}")
            record[work] = {
                "rounds": len(times[name]),
                "tokens_per_second": ids.numel() / Spread.of(times[name]).median,
                "best": ids.numel() / min(times[name]),
                "ratio": Spread.of(ratios(times[name], times[PEER])).median,
                "peak_bytes": peak_memory(name, work, length, tokens, threads),
            }
    return list(found.values())


def peak_memory(arm: str, work: str, length: int, tokens: int, threads: int) -> int:
    """Bytes that a process holds at most while it does one call of an arm."""
    asked = json.dumps([arm, work, length, tokens, threads])
    command = [sys.executable, "-m", "experiments.throughput", "--probe", asked]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise MemoryProbeError(f"cannot measure the memory of {arm} at T = {length}: {last}")
    return int(done.stdout.split()[-1])


def probe(arm: str, work: str, length: int, tokens: int, threads: int) -> int:
    """What `peak_memory` asks for, in a process of its own."""
    torch.set_num_threads(threads)
    keep_large_blocks()
    measure(prepare(arms()[arm], work, batch(length, tokens)), CPU)
    return high_water()


def verdict(found: list[dict[str, Any]]) -> str:
    """Whether phase 6 trains on its longest text within the limit."""
    longest = max((r for r in found if r["arm"] == "phase6"), key=lambda r: r["T"])
    held, limit = longest["train"]["peak_bytes"], LIMIT / 2**30
    word = "under" if held < LIMIT else "NOT under"
    return (
        f"phase6 trains at T = {longest['T']:,}, B = {longest['B']}, with a peak of "
        f"{held / 2**30:.2f} GiB: {word} {limit:.0f} GiB"
    )


def table(found: list[dict[str, Any]]) -> Table:
    """Tokens a second (median and best), times the transformer's, and peak GiB."""
    view = Table("T", "B", "arm", "parameters", box=None, pad_edge=False)
    for work in WORK:
        for title in (f"{work} tokens/s", "best", "ratio", "GiB"):
            view.add_column(title, justify="right")
    for r in found:
        cells = [f"{r['T']:,}", str(r["B"]), r["arm"], f"{r['parameters']:,}"]
        for speed in (r[work] for work in WORK):
            cells += [f"{speed['tokens_per_second']:,.0f}", f"{speed['best']:,.0f}"]
            cells += [f"{speed['ratio']:.2f}", f"{speed['peak_bytes'] / 2**30:.2f}"]
        view.add_row(*cells)
    return view


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/throughput.json"))
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 4096, 16384])
    parser.add_argument("--tokens", type=int, default=16384, help="tokens of a batch, about")
    parser.add_argument("--seconds", type=float, default=30, help="of timing, beyond three turns")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        print(probe(*json.loads(options.probe)))
        return
    console = Console()
    torch.set_num_threads(options.threads)
    keep_large_blocks()
    audited(arms())
    found: list[dict[str, Any]] = []
    for length in options.lengths:
        found += measure_length(
            length, options.tokens, options.seconds, options.threads, console.print
        )
        about = {"machine": machine(CPU), "versions": versions(), "threads": options.threads}
        atomic_write_json(options.out, {**about, "tokens": options.tokens, "results": found})
    console.print(table(found))
    console.print(verdict(found))


if __name__ == "__main__":
    main()
