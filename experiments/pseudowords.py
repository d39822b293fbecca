"""Senses with exact labels in real text (Gale et al., 1992; Schütze, 1992).

Two words of the corpus, about as frequent, become one pseudoword wherever they stand; models are
trained on the text so changed. Which of the two stood there is then asked of a linear probe on the
hidden state of the pseudoword, which has read what comes before it and the pseudoword, no more.

W pseudowords, V vocabulary, D model width.
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
from state_core.atomic import atomic_write_json
from state_core.audit import audit_causality
from state_core.errors import CausalityError, MissingExtraError
from state_core.pipeline import SOSM
from state_core.training.batches import windows
from state_core.training.run import Text, load_run, load_text, train

PAIRS = 32
RANKS = slice(40, 360)  # of the words by frequency, that words are drawn from
PENALTY = 0.05  # inverse strength of the probe's regularisation: few occurrences, D features

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Pseudowords:
    """pairs [W,2]: ids that become the first of them; controls [W]: words as frequent as the
    pseudowords are, which stay."""

    pairs: Ids
    controls: Ids

    @classmethod
    def draw(cls, text: Text, seed: int) -> Pseudowords:
        """Frequent whole words of a text, drawn by `seed`, in pairs of like frequency."""
        counts = np.bincount(text.train, minlength=text.tokenizer.vocab_size)
        pieces = text.tokenizer.pieces(range(len(counts)))
        words = np.array([i for i, p in enumerate(pieces) if _is_word(p)])
        words = words[np.argsort(-counts[words], kind="stable")]
        rng = np.random.default_rng(seed)
        # From the most frequent to the least, so that neighbours are alike.
        drawn = np.sort(rng.choice(np.arange(len(words))[RANKS], 2 * PAIRS, replace=False))
        pairs = words[drawn].reshape(PAIRS, 2)
        free = np.delete(words, drawn)
        controls = []
        for wanted in counts[pairs].sum(1):
            nearest = int(np.abs(counts[free] - wanted).argmin())
            controls.append(free[nearest])
            free = np.delete(free, nearest)
        return cls(pairs, np.array(controls))

    def change(self, ids: Ids) -> Ids:
        """The text with its pseudowords."""
        changed = ids.copy()
        for first, second in self.pairs:
            changed[ids == second] = first
        return changed


@dataclass(frozen=True)
class ChangedText(Text):
    """A text with pseudowords in place of the words they are made of."""

    pseudowords: Pseudowords

    def _encode(self, part: str) -> Ids:
        return self.pseudowords.change(super()._encode(part))


def tell_senses(job: Job, out: Path, threads: int) -> dict[str, Any]:
    """Train a job on the changed text and ask for the senses; or read what was found before.

    accuracy and chance are those of all pseudowords' occurrences in the held-out text, chance that
    of always saying the word which is more frequent in training.
    """
    folder = out / job.folder
    results = folder / "results.json"
    if results.is_file():
        return json.loads(results.read_text(encoding="utf-8"))
    torch.set_num_threads(threads)
    text = load_text(job.config)
    pseudowords = Pseudowords.draw(text, job.config.train.seed)
    done = train(
        job.config,
        folder,
        overwrite=True,
        text=ChangedText(text.corpus, text.tokenizer, pseudowords),
    )
    model = load_run(folder)[0].eval()
    audit = audit_causality(model)
    if not audit.passed:
        raise CausalityError(f"{job.folder}: no accuracy is given.\n{audit}")
    fit, test = (_read(model, pseudowords, part) for part in (text.valid, text.test))
    accuracy, chance = _probe(pseudowords, fit, test)
    found = {
        "arm": job.arm,
        "seed": job.config.train.seed,
        "parameters": model.num_parameters(),
        "data_hash": done.data_hash,
        "accuracy": accuracy,
        "chance": chance,
        "ambiguity_of_k": _rank_correlation(pseudowords, test),
    }
    atomic_write_json(results, found)
    return found


@dataclass(frozen=True)
class _Reading:
    """Tokens that a model read: hidden [M,D], the edges K [M] that each asked for (none without
    adaptive K), and the ids [M] that stood there before pseudowords did."""

    hidden: NDArray[np.float32]
    k: NDArray[np.int64] | None
    ids: Ids


@torch.no_grad()
def _read(model: SOSM, pseudowords: Pseudowords, ids: Ids) -> _Reading:
    """The tokens that pseudowords and controls are, in a part of the text."""
    asked: list[torch.Tensor] = []
    hooks = []
    adaptive = model.graph_builder.adaptive_k if model.config.graph.enabled else None
    if adaptive is not None:
        hooks.append(adaptive.register_forward_hook(lambda _m, _x, k: asked.append(k)))
    settings = model.config.train
    wanted = np.concatenate([pseudowords.pairs.ravel(), pseudowords.controls])
    hidden, real, mask = [], [], []
    changed = pseudowords.change(ids)
    sizes = settings.seq_len, settings.batch_size
    for was, now in zip(
        windows(ids, *sizes, "the text"), windows(changed, *sizes, "the text"), strict=True
    ):
        kept = torch.from_numpy(np.isin(was.numpy(), wanted))
        hidden.append(model(now).hidden[kept].float())
        real.append(was[kept])
        mask.append(kept)
    for hook in hooks:
        hook.remove()
    k = [rows[kept] for rows, kept in zip(asked, mask)]
    return _Reading(
        torch.cat(hidden).numpy(), torch.cat(k).numpy() if k else None, torch.cat(real).numpy()
    )


def _probe(pseudowords: Pseudowords, fit: _Reading, test: _Reading) -> tuple[float, float]:
    """Accuracy over all occurrences of a logistic regression for each pseudoword, and chance."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise MissingExtraError("scikit-learn", "analysis", "a probe") from None
    right = guessed = asked = 0
    for pair in pseudowords.pairs:
        mine, theirs = (np.isin(r.ids, pair) for r in (fit, test))
        known, meant = fit.ids[mine], test.ids[theirs]
        if len(set(known)) < 2 or not len(meant):
            continue
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=200))
        probe.fit(fit.hidden[mine], known)
        words, counts = np.unique(known, return_counts=True)
        right += int((probe.predict(test.hidden[theirs]) == meant).sum())
        guessed += int((words[counts.argmax()] == meant).sum())
        asked += len(meant)
    return right / asked, guessed / asked


def _rank_correlation(pseudowords: Pseudowords, reading: _Reading) -> float | None:
    """Spearman's, between the edges that a token asks for and whether it has two senses."""
    if reading.k is None:
        return None
    from scipy.stats import spearmanr

    two_senses = np.isin(reading.ids, pseudowords.pairs)
    return float(spearmanr(reading.k, two_senses).statistic)


def _is_word(piece: str) -> bool:
    return piece.startswith(" ") and len(piece) > 3 and piece[1:].isalpha()
