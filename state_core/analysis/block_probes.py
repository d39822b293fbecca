"""What a block of the state encodes, whatever it is called: linear probes against known labels.

    probes = probe_blocks(model, documents)
    probes.table()

For each block a logistic regression predicts, from its four numbers alone,

    token       which of the most frequent tokens it is the state of
    previous    which of them came before
    position    where in the window it stands, in eighths
    document    which document it is of

on documents that the probe was not trained on, but for the last, where it is scored on the second
halves of the documents whose first halves it was trained on. Beside each accuracy stand the rate of
the commonest label and what the same probe reads off an untrained model's block: since blocks are
computed from what they are named for, a random projection says much already, and only what is above
it was learnt. Needs the extra `analysis`.

S samples, F features, C classes, L tokens of a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from state_core.analysis.provenance import Document, Progress, require_graph, windows
from state_core.errors import InputError, MissingExtraError
from state_core.pipeline import SOSM

if TYPE_CHECKING:
    from rich.table import Table

LABELS = ("token", "previous", "position", "document")
PLACES = 8  # of a window
NO_LABEL = -1
ITERATIONS = 200


@dataclass(frozen=True, eq=False)
class BlockProbes:
    """accuracy and untrained [blocks, labels], majority [labels]: the rate of the commonest label;
    sources: what each block is computed from; samples, classes: of each label, those scored."""

    sources: Mapping[str, str]
    labels: tuple[str, ...]
    accuracy: NDArray[np.float64]
    untrained: NDArray[np.float64]
    majority: NDArray[np.float64]
    samples: tuple[int, ...]
    classes: tuple[int, ...]

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(self.sources)

    def table(self) -> Table:
        """A row for each block: accuracy, and in brackets that of the untrained model."""
        from rich.table import Table

        table = Table("block", "from", box=None, pad_edge=False, title_justify="left")
        table.title = "What a linear probe reads off each block (untrained in brackets)"
        for label, classes in zip(self.labels, self.classes, strict=True):
            table.add_column(f"{label}\n{classes} classes", justify="right", no_wrap=True)
        table.add_row("", "(commonest label)", *(f"{rate:.0%}       " for rate in self.majority))
        for (name, source), mine, theirs in zip(
            self.sources.items(), self.accuracy, self.untrained, strict=True
        ):
            cells = (f"{a:.0%} ({b:4.0%})" for a, b in zip(mine, theirs, strict=True))
            table.add_row(name, source, *cells)
        return table


@dataclass(frozen=True)
class _Samples:
    """features: block → [S,F]; labels: name → [S] int64; document [S]; late [S] bool: in the
    second half of its document."""

    features: Mapping[str, NDArray[np.float32]]
    labels: Mapping[str, NDArray[np.int64]]
    document: NDArray[np.int64]
    late: NDArray[np.bool_]


def probe_blocks(
    model: SOSM,
    documents: Sequence[Document],
    *,
    labels: Sequence[str] = LABELS,
    frequent: int = 16,
    most: int = 2000,
    seed: int = 0,
    window: int | None = None,
    progress: Progress = lambda done, of: None,
) -> BlockProbes:
    """Probe every block of `model`, its temporal state, and the whole state.

    frequent: how many tokens are told apart; most: samples of a label that probes are trained on,
    and as many that they are scored on, evenly spread; seed: of the untrained model, which is built
    from the same configuration; window: as for `block_shares`. InputError for fewer than two
    documents, an unknown label, a model without a state, or a label that does not vary;
    MissingExtraError without scikit-learn.
    """
    require_graph(model)
    _sklearn()
    unknown = [label for label in labels if label not in LABELS]
    if unknown:
        raise InputError(f"no label is {unknown[0]!r}: there are {', '.join(LABELS)}")
    if len(documents) < 2:
        raise InputError("probes are trained on some documents and scored on others: give two")
    common = _frequent(documents, frequent)
    read = [_read(m, documents, common, window) for m in (model, _untrained(model, seed))]
    splits = {label: _split(read[0], label, most) for label in labels}
    names = list(read[0].features)
    scores = np.zeros((2, len(names), len(labels)))
    majority = []
    for k, label in enumerate(labels):
        train, test = splits[label]
        y = read[0].labels[label]
        majority.append(float((y[test] == np.bincount(y[train]).argmax()).mean()))
        for n, name in enumerate(names):
            for m, samples in enumerate(read):
                x = samples.features[name]
                scores[m, n, k] = _accuracy(x[train], y[train], x[test], y[test])
            progress(k * len(names) + n + 1, len(names) * len(labels))
    layout = model.config.state.layout
    sources = {name: str(layout.get(name, "recency" if name == "temporal" else "all blocks"))
               for name in names}  # fmt: skip
    return BlockProbes(
        sources=sources,
        labels=tuple(labels),
        accuracy=scores[0],
        untrained=scores[1],
        majority=np.array(majority),
        samples=tuple(len(splits[label][1]) for label in labels),
        classes=tuple(len(np.unique(read[0].labels[label][splits[label][0]])) for label in labels),
    )


@torch.no_grad()
def _read(
    model: SOSM, documents: Sequence[Document], common: Mapping[int, int], window: int | None
) -> _Samples:
    features: list[dict[str, NDArray[np.float32]]] = []
    labels: list[dict[str, NDArray[np.int64]]] = []
    late = []
    for d, document in enumerate(documents):
        for ids in windows(model, document, window):
            state = model(ids, return_state=True).state
            assert state is not None
            blocks = dict(zip(state.layout, state.semantic[0].float().unbind(1), strict=True))
            whole = state.semantic[0].float().flatten(1)
            every = {**blocks, "temporal": state.temporal[0].float(), "whole state": whole}
            features.append({name: values.cpu().numpy() for name, values in every.items()})
            token = np.array([common.get(i, NO_LABEL) for i in ids[0].tolist()])
            here = np.arange(len(token))
            labels.append(
                {
                    "token": token,
                    "previous": np.concatenate([[NO_LABEL], token[:-1]]),
                    "position": here * PLACES // len(token),
                    "document": np.full(len(token), d),
                }
            )
        read = sum(len(part["token"]) for part in labels if part["document"][0] == d)
        late.append(np.arange(read) >= read // 2)
    joined = {label: np.concatenate([part[label] for part in labels]) for label in LABELS}
    stacked = {name: np.concatenate([part[name] for part in features]) for name in features[0]}
    return _Samples(stacked, joined, joined["document"], np.concatenate(late))


def _split(samples: _Samples, label: str, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which samples probes are trained on, and which they are scored on."""
    known = samples.labels[label] != NO_LABEL
    scored = samples.late if label == "document" else samples.document % 2 == 1
    train, test = (_evenly(np.flatnonzero(known & part), most) for part in (~scored, scored))
    if not len(test) or len(np.unique(samples.labels[label][train])) < 2:
        raise InputError(f"the label {label!r} does not vary in these documents: give more text")
    return train, test


def _evenly(of: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    if len(of) <= most:
        return of
    return of[np.linspace(0, len(of) - 1, most).astype(np.int64)]


def _accuracy(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    x_test: NDArray[np.float32],
    y_test: NDArray[np.int64],
) -> float:
    linear_model, pipeline, preprocessing = _sklearn()
    probe = pipeline.make_pipeline(
        preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=ITERATIONS)
    )
    return float(probe.fit(x, y).score(x_test, y_test))


def _frequent(documents: Sequence[Document], count: int) -> dict[int, int]:
    """The most frequent tokens, numbered."""
    every = np.concatenate([np.asarray(document, dtype=np.int64) for document in documents])
    ids, times = np.unique(every, return_counts=True)
    best = ids[np.argsort(-times, kind="stable")[:count]]
    return {int(token): n for n, token in enumerate(best)}


def _untrained(model: SOSM, seed: int) -> SOSM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = SOSM(model.config).eval()
    return fresh.to(model.embedding.codes.weight.device)


def _sklearn() -> Any:
    try:
        from sklearn import linear_model, pipeline, preprocessing
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "analysis", "probing blocks") from error
    return linear_model, pipeline, preprocessing
