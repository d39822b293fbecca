"""TextMemory: what a model remembers of the segments that it has read.

A token is kept as it was when its segment was read: the features by which the graph compares
tokens, which retrieve it; the key and the value of the layer that reads the memory; the key of the
pointer head; and the word that followed. Nothing of a segment is kept before all of it was read, so
that no token finds itself or a later one, and no gradient reaches what is kept (Memorizing
Transformers, arXiv 2203.08913).

B texts, T tokens of a segment, K items retrieved, d features, H heads, D head width, p pointer
width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from state_core import memory
from state_core.errors import CheckpointError, InputError
from state_core.memory.tail import Tail

if TYPE_CHECKING:
    from state_core.config import SOSMConfig


@dataclass(frozen=True)
class Keepsake:
    """What the tokens of a segment leave: features [B,T,d], layer [B,T,2,H,D] (keys and values),
    pointer_keys [B,T,p] (p = 0 without a pointer head)."""

    features: Tensor
    layer: Tensor
    pointer_keys: Tensor

    @classmethod
    def join(cls, parts: Sequence[Keepsake]) -> Keepsake:
        """That of a segment which was read in pieces."""
        columns = (torch.cat([getattr(p, f.name) for p in parts], dim=1) for f in fields(cls))
        return cls(*columns)


@dataclass(frozen=True)
class Recalled:
    """The K items most similar to each of T tokens, best first.

    items [B,T,K] int64: their positions in the text that was read, −1 pads; similarities [B,T,K];
    layer [B,T,K,2,H,D]; pointer_keys [B,T,K,p]; words [B,T,K]: the token that followed, −1 pads.
    """

    items: Tensor
    similarities: Tensor
    layer: Tensor
    pointer_keys: Tensor
    words: Tensor

    @property
    def known(self) -> Tensor:
        """Which are items, and not padding: [B,T,K] bool."""
        return self.items >= 0


@dataclass(frozen=True)
class MemoryItem:
    """A remembered token: where it stood in what was read, and what followed it."""

    document: int
    position: int
    token: int
    word: int
    features: Tensor


@dataclass(frozen=True)
class RecallProvenance:
    """Why a token found an item: the blocks' contributions add up to the similarity."""

    item: MemoryItem
    similarity: float
    contributions: Mapping[str, float]

    def __str__(self) -> str:
        shares = "  ".join(f"{name} {c:+.3f}" for name, c in self.contributions.items() if c)
        where = f"document {self.item.document}, position {self.item.position}"
        return f"memory of {where}: similarity {self.similarity:+.3f}\n  {shares}"


class TextMemory:
    """One memory per text of a batch: `out = model(ids, memory=m)` reads, `m.append` writes."""

    def __init__(self, config: SOSMConfig, batch_size: int, dim: int, capacity: int) -> None:
        """dim: features d; capacity: tokens that each text's memory holds, the latest."""
        if batch_size < 1 or capacity < 1:
            raise InputError(
                f"a memory needs batch_size ≥ 1 and capacity ≥ 1, got {batch_size} and {capacity}"
            )
        self.config, self.dim, self.capacity = config, dim, capacity
        self.rows = [_Row(config.memory.kind, dim, capacity) for _ in range(batch_size)]

    def __len__(self) -> int:
        """Tokens held, of all texts."""
        return sum(len(row) for row in self.rows)

    @property
    def batch_size(self) -> int:
        return len(self.rows)

    @torch.no_grad()
    def recall(self, features: Tensor) -> Recalled | None:
        """The items most similar to tokens with features [B,T,d]; None while nothing is held."""
        if not len(self):
            return None
        k = self.config.memory.k
        found = [row.search(features[b], k) for b, row in enumerate(self.rows)]
        items = torch.stack([ids for ids, _ in found])
        return Recalled(
            items=items.to(features.device),
            similarities=torch.stack([sims for _, sims in found]).to(features),
            layer=self._gather("layer", items).to(features.device),
            pointer_keys=self._gather("pointer_keys", items).to(features.device),
            words=self._gather("words", items).masked_fill(items < 0, -1).to(features.device),
        )

    @torch.no_grad()
    def append(
        self, ids: Tensor, keepsake: Keepsake | None, documents: Tensor | None = None
    ) -> None:
        """Remember a segment: its tokens [B,T], and the `keepsake` of the output that read them.

        The last token is left out, since what follows it is not known: the next segment begins with
        it. documents [B,T]: the number of each token's document, 0 if not given.
        """
        if keepsake is None or keepsake.features.shape[:2] != ids.shape:
            raise InputError(
                f"append needs the tokens of a segment and out.keepsake of the same: tokens of "
                f"shape {list(ids.shape)} do not fit"
            )
        if len(ids) != self.batch_size:
            raise InputError(f"the memory holds {self.batch_size} texts, the segment {len(ids)}")
        documents = torch.zeros_like(ids) if documents is None else documents
        for b, row in enumerate(self.rows):
            row.append(
                keepsake.features[b, :-1],
                {
                    "layer": keepsake.layer[b, :-1],
                    "pointer_keys": keepsake.pointer_keys[b, :-1],
                    "tokens": ids[b, :-1],
                    "words": ids[b, 1:],
                    "documents": documents[b, :-1],
                },
            )

    def clear(self, texts: Sequence[int] | None = None) -> None:
        """Forget everything, or what was read of some texts."""
        for b in range(self.batch_size) if texts is None else texts:
            self.rows[b] = _Row(self.config.memory.kind, self.dim, self.capacity)

    def row(self, b: int) -> TextMemory:
        """The memory of text b alone; what is appended to either is in both."""
        one = TextMemory(self.config, 1, self.dim, self.capacity)
        one.rows = self.rows[b : b + 1]
        return one

    def item(self, b: int, position: int) -> MemoryItem:
        """What text b remembers of a position; InputError if it is forgotten or was never read."""
        row = self.rows[b]
        at = row.index(position)
        return MemoryItem(
            document=int(row.kept["documents"].values[at]),
            position=position,
            token=int(row.kept["tokens"].values[at]),
            word=int(row.kept["words"].values[at]),
            features=row.kept["features"].values[at],
        )

    def passage(self, b: int, position: int, before: int = 6, after: int = 2) -> list[int]:
        """The tokens around a position, as many as are held."""
        row = self.rows[b]
        at = row.index(position)
        return row.kept["tokens"].values[max(at - before, 0) : at + after + 1].tolist()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is held, by name: what `load_tensors` takes."""
        return {
            f"{b}.{name}": values
            for b, row in enumerate(self.rows)
            for name, values in row.tensors().items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Hold what another memory of as many texts gave by `tensors`."""
        texts = {name.partition(".")[0] for name in tensors}
        if texts != {str(b) for b in range(self.batch_size)}:
            raise CheckpointError(
                f"the saved memory is of {len(texts)} texts, this one of {self.batch_size}"
            )
        self.clear()
        for b, row in enumerate(self.rows):
            mark = f"{b}."
            row.load({n.removeprefix(mark): t for n, t in tensors.items() if n.startswith(mark)})

    def save(self, path: str | Path, fingerprint: str) -> None:
        """Write the memory to one file, atomically. fingerprint: that of the model that read the
        texts (`graph.graph_cache.fingerprint`), since no other can read what it kept."""
        from state_core.checkpoint import write_tensors

        info: dict[str, Any] = {"fingerprint": fingerprint, "texts": self.batch_size}
        write_tensors(Path(path), self.tensors(), "text memory", info)

    def load(self, path: str | Path, fingerprint: str) -> None:
        """Hold what `save` wrote; CheckpointError if the file is damaged or of another model."""
        from state_core.checkpoint import read_tensors

        tensors, info = read_tensors(Path(path), "text memory")
        if info["fingerprint"] != fingerprint:
            raise CheckpointError(
                f"{path} was written by another model, or by this one before it was trained on: "
                "read the texts again"
            )
        self.load_tensors(tensors)

    def _gather(self, name: str, items: Tensor) -> Tensor:
        """What is kept under a name, for items [B,T,K] of each text."""
        like = next(row.kept[name].values for row in self.rows if len(row))
        columns = [row.take(name, of, like) for row, of in zip(self.rows, items, strict=True)]
        return torch.stack(columns)


class _Row:
    """The memory of one text."""

    def __init__(self, kind: str, dim: int, capacity: int) -> None:
        self.kind, self.dim, self.capacity = kind, dim, capacity
        self.kept: dict[str, Tail] = {}
        self._open(first=0)

    def __len__(self) -> int:
        return len(self.kept["tokens"]) if self.kept else 0

    def append(self, features: Tensor, columns: Mapping[str, Tensor]) -> None:
        fresh = {"features": features, **columns}
        for name, values in fresh.items():
            tail = self.kept.setdefault(name, Tail(self.capacity))
            tail.append(values.detach().cpu())
        self._index(features.detach().cpu(), columns["documents"].cpu())
        self.first = self.next - len(self)

    def search(self, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Positions and similarities, [T,K] each, of what is most similar to features [T,d]."""
        hits = self.store.search(features.detach().cpu().float(), k)
        ids = torch.from_numpy(hits.ids)
        positions = torch.where(ids >= 0, ids + self.base, ids)
        return positions, torch.from_numpy(hits.similarities)

    def take(self, name: str, positions: Tensor, like: Tensor) -> Tensor:
        """What is kept under a name for positions of any shape, arbitrary for padding; shaped as
        the rows of `like`."""
        if not len(self):
            return like.new_zeros(*positions.shape, *like.shape[1:])
        at = (positions - self.first).clamp(min=0).flatten()
        return self.kept[name].values.index_select(0, at).unflatten(0, positions.shape)

    def index(self, position: int) -> int:
        """Where a token lies; InputError if it is not held."""
        if not self.first <= position < self.next:
            raise InputError(
                f"position {position} is not remembered: {self.first} to {self.next - 1} are"
            )
        return position - self.first

    def tensors(self) -> dict[str, Tensor]:
        held = {name: tail.values.clone() for name, tail in self.kept.items()}
        return {**held, "first": torch.tensor(self.first)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        columns = {name: values for name, values in tensors.items() if name != "first"}
        self._open(first=int(tensors["first"]))
        if columns:
            features = columns.pop("features")
            self.append(features, columns)

    def _open(self, first: int) -> None:
        """Begin an empty memory, whose first token has a position."""
        self.store = memory.open(self.kind, dim=self.dim)
        self.base = self.first = self.next = first

    def _index(self, features: Tensor, documents: Tensor) -> None:
        """Make new items findable, and forget those that are too old."""
        positions = torch.arange(self.next, self.next + len(features))
        self.store.add(features.float(), documents.numpy(), positions.numpy())
        self.next += len(features)
        if len(self.store) > self.capacity:
            self.store.evict(self.capacity, by="age")
