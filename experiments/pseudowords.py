"""Models trained on a text in which words were merged in pairs, asked which of two was meant.

What `analysis.pseudowords` asks of any model is asked here of models to which the pseudowords are
words of the language: they were trained on the merged text. Beside their accuracy stands that of
the same model before training. A model with adaptive K is also asked whether it gives tokens that
have two senses more edges.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.harness import Job
from state_core.analysis.pseudowords import PseudowordTask, is_word
from state_core.atomic import atomic_write_json
from state_core.audit import audit_causality
from state_core.errors import CausalityError
from state_core.pipeline import SOSM
from state_core.training.batches import windows
from state_core.training.run import Text, load_run, load_text, train

PAIRS, EACH = 32, 24  # pseudowords, and occurrences of either word in each part of the text

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class MergedText(Text):
    """A text with pseudowords in place of the words they are made of."""

    task: PseudowordTask

    def _encode(self, part: str) -> Ids:
        return self.task.merged(super()._encode(part))


def tell_senses(job: Job, out: Path, threads: int) -> dict[str, Any]:
    """Train a job on the merged text and ask for the senses; or read what was found before."""
    folder = out / job.folder
    results = folder / "results.json"
    if results.is_file():
        return json.loads(results.read_text(encoding="utf-8"))
    torch.set_num_threads(threads)
    seed = job.config.train.seed
    text = load_text(job.config)
    task = PseudowordTask.of(text.tokenizer, text.valid, text.test, PAIRS, EACH, seed)
    merged = MergedText(text.corpus, text.tokenizer, task)
    done = train(job.config, folder, overwrite=True, text=merged)
    model = load_run(folder)[0].eval()
    audit = audit_causality(model)
    if not audit.passed:
        raise CausalityError(f"{job.folder}: no accuracy is given.\n{audit}")
    torch.manual_seed(seed)
    untrained = SOSM(model.config).eval()
    found = {
        "arm": job.arm,
        "seed": seed,
        "parameters": model.num_parameters(),
        "data_hash": done.data_hash,
        "accuracy": task.accuracy(task.read(model)["hidden"]),
        "untrained": task.accuracy(task.read(untrained)["hidden"]),
        "ambiguity_of_k": ambiguity_of_k(model, merged),
    }
    atomic_write_json(results, found)
    return found


def percent(results: list[dict[str, Any]], key: str) -> list[float]:
    """`accuracy`, or what it was `untrained`, of an arm's results, seed by seed."""
    return [100 * result[key] for result in results]


def points_gained(ours: list[dict[str, Any]], peer: list[dict[str, Any]]) -> list[float]:
    """An arm's accuracy less its peer's, in percentage points, seed by seed."""
    pairs = zip(percent(ours, "accuracy"), percent(peer, "accuracy"), strict=True)
    return [a - b for a, b in pairs]


@torch.no_grad()
def ambiguity_of_k(model: SOSM, text: MergedText) -> float | None:
    """Spearman's correlation of the edges that a token asks for with whether it has two senses:
    over the pseudowords of a text and words as frequent in it; None without adaptive K."""
    from scipy.stats import spearmanr

    adaptive = model.graph_builder.adaptive_k if model.config.graph.enabled else None
    if adaptive is None:
        return None
    asked: list[torch.Tensor] = []
    read: list[torch.Tensor] = []
    hook = adaptive.register_forward_hook(lambda _module, _given, k: asked.append(k.flatten()))
    sizes = model.config.train.seq_len, model.config.train.batch_size
    for ids in windows(text.test, *sizes, "the text"):
        model(ids)
        read.append(ids.flatten())
    hook.remove()
    k, tokens = torch.cat(asked).numpy(), torch.cat(read).numpy()
    pseudowords = text.task.words[:, 0]
    kept = np.isin(tokens, [*pseudowords, *as_frequent(text)])
    return float(spearmanr(k[kept], np.isin(tokens, pseudowords)[kept]).statistic)


def as_frequent(text: MergedText) -> Ids:
    """For each pseudoword another word [P] that occurs about as often in the test text."""
    pieces = text.tokenizer.pieces(range(text.tokenizer.vocab_size))
    words = np.array([i for i, piece in enumerate(pieces) if is_word(piece)])
    free = np.setdiff1d(words, text.task.words)
    counts = np.bincount(text.test, minlength=len(pieces))
    controls = []
    for wanted in counts[text.task.words[:, 0]]:
        nearest = int(np.abs(counts[free] - wanted).argmin())
        controls.append(free[nearest])
        free = np.delete(free, nearest)
    return np.array(controls)
