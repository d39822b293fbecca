"""A fact stated far back, and asked for: what memory finds that no window holds.

A small SOSM learns the task on texts of a few segments: real text as filler, a fact (a key of four
tokens, and its value), and at the end the question. It is then asked over ever greater distances,
with its memory and, the same model, without. Each seed trains a model of its own.

    python -m experiments.needle --out runs/needle
    python -m experiments.needle --steps 3 --seeds 1 --texts 2 --distances 128     # does it run?
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from experiments.harness import spread
from state_core import SOSM, SOSMConfig, audit_causality
from state_core.atomic import atomic_write_json
from state_core.errors import CausalityError
from state_core.output import SOSMOutput
from state_core.training.optim import build_optimizer, set_learning_rate
from state_core.training.probes import Needle
from state_core.training.run import Text, load_text
from state_core.training.schedule import learning_rate

SEGMENT, SEGMENTS, KEY = 128, 4, 4
TEST = 10**6  # seeds of texts that no model is trained on
CONFIG = {
    "vocab_size": 1024,
    "d_model": 64,
    "embed_rank": 32,
    "layers": ["mamba", "graph_attention"],
    "mlp_hidden": 128,
    "mamba.headdim": 32,
    "mamba.d_state": 16,
    # All blocks that a phrase of four tokens settles: those of longer averages would tell what is
    # around it, which is not the same around the question.
    "graph.block_weights": dict.fromkeys(("I", "S", "E", "A", "R1", "R2", "C1", "T", "M"), 1 / 9),
    "memory.enabled": True,
    "memory.capacity": SEGMENT * SEGMENTS,
    "data.source": "sotu",
    "train.consecutive": True,
    "train.seq_len": SEGMENT,
    "train.batch_size": 16,
    "train.warmup": 20,
    "train.lr": 2e-3,
}


def read(model: SOSM, ids: Tensor, labels: Tensor, capacity: int) -> SOSMOutput:
    """Read texts [N,T] segment by segment; the output of the last one, which holds the question.

    Segments are counted from the end, so that none begins inside the question: a state of local
    blocks that is cut there is not the fact's. capacity: tokens that are remembered of each text; 0
    reads without a memory.
    """
    memory = model.new_memory(len(ids), capacity) if capacity else None
    last = max(ids.shape[1] - SEGMENT, 0)
    with torch.no_grad():
        for start in range(last % (SEGMENT - 1) - SEGMENT + 1, last, SEGMENT - 1):
            part = ids[:, max(start, 0) : start + SEGMENT]
            if memory is not None and part.shape[1] > 1:
                memory.append(part, model(part, memory=memory).keepsake)
    return model(ids[:, last:], labels=labels[:, last:], memory=memory)


def train(config: SOSMConfig, filler: Any, progress: Progress) -> SOSM:
    """A model trained on what is asked, at distances from half a segment to all but one."""
    settings = config.train
    torch.manual_seed(settings.seed)
    model = SOSM(config).train()
    optimizer = build_optimizer(model, settings)
    length = SEGMENT * SEGMENTS
    task = progress.add_task(f"seed {settings.seed}: training", total=settings.steps)
    for step in range(settings.steps):
        distance = SEGMENT // 2 + step * 37 % (length - 2 * SEGMENT)
        needle = Needle(length, distance, config.vocab_size, KEY, filler)
        batch = needle.batch(settings.batch_size, settings.seed * TEST // 100 + step)
        out = read(model, batch.ids, batch.labels, config.memory.capacity)
        assert out.loss is not None
        out.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        set_learning_rate(optimizer, learning_rate(step, settings))
        optimizer.step()
        optimizer.zero_grad()
        text = f"seed {settings.seed}: training, loss {float(out.loss.detach()):.3f}"
        progress.update(task, advance=1, description=text)
    return model.eval()


@torch.no_grad()
def score(model: SOSM, distances: list[int], texts: int, filler: Any, progress: Progress) -> Any:
    """Rows of distance, with memory or not, questions and how many were right."""
    if not (audit := audit_causality(model)).passed:
        raise CausalityError(f"no accuracy is given.\n{audit}")
    seed, vocabulary = model.config.train.seed, model.config.vocab_size
    rows = []
    for distance in distances:
        length = distance + SEGMENT
        batch = Needle(length, distance, vocabulary, KEY, filler).batch(texts, TEST + seed)
        for remembered in (length, 0):
            name = f"seed {seed}: {distance:,} tokens back" + (", remembered" if remembered else "")
            task = progress.add_task(name, total=None)
            out = read(model, batch.ids, batch.labels, remembered)
            right = out.logits[:, -2].argmax(-1) == batch.ids[:, -1]
            row = {"distance": distance, "remembered": remembered, "asked": len(right)}
            rows.append({**row, "right": int(right.sum())})
            progress.remove_task(task)
    return rows


def run(config: SOSMConfig, text: Text, options: argparse.Namespace) -> dict[str, Any]:
    """One seed; read from its file if an earlier call finished it."""
    seed = config.train.seed
    path = options.out / f"seed{seed}_{config.train.steps}_{options.texts}.json"
    if path.is_file() and (found := json.loads(path.read_text()))["distances"] == options.distances:
        return found
    with Progress(console=Console(stderr=True)) as progress:
        model = train(config, text.train, progress)
        rows = score(model, options.distances, options.texts, text.test, progress)
    found = {"seed": seed, "distances": options.distances, "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_json(path, {**found, "parameters": model.num_parameters()})
    return found


def table(found: list[dict[str, Any]]) -> Table:
    """Share of right answers, mean and deviation over the seeds."""
    view = Table("tokens back", "questions", "with memory", "without", title="needles found")
    for distance in found[0]["distances"]:
        cells = list(_cells(found, distance))
        asked = sum(r["asked"] for f in found for r in f["rows"] if _is(r, distance, True))
        view.add_row(f"{distance:,}", str(asked), *cells)
    return view


def _cells(found: list[dict[str, Any]], distance: int) -> Iterator[str]:
    for remembered in (True, False):
        rows = [r for f in found for r in f["rows"] if _is(r, distance, remembered)]
        shares = [100 * r["right"] / r["asked"] for r in rows]
        yield f"{spread(shares, 1)} %" if len(shares) > 1 else f"{math.fsum(shares):.1f} %"


def _is(row: dict[str, Any], distance: int, remembered: bool) -> bool:
    return row["distance"] == distance and bool(row["remembered"]) == remembered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/needle"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=32, help="questions per distance and seed")
    parser.add_argument("--distances", type=int, nargs="*", default=[512, 2048, 8192, 32768])
    options = parser.parse_args()
    base = SOSMConfig.preset("default").override({**CONFIG, "train.steps": options.steps})
    text = load_text(base)
    found = [
        run(base.override({"train.seed": seed}), text, options) for seed in range(options.seeds)
    ]
    atomic_write_json(options.out / "results.json", found)
    Console().print(table(found))


if __name__ == "__main__":
    main()
