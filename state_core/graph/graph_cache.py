"""GraphCache: texts that begin alike are read once, exactly or not at all.

A prefix tree by content: a node is a run of whole blocks of token ids, and holds what the model
carried after reading them (the graph's rows and features, keys and values, recurrent states). With
a cache a text is always read block by block, so that a hit goes on with the very calls that a miss
would make, and gives the same bits. What a node holds is bound to the model's weights and
configuration by their digest: a model that was trained on is another model.

What is written once per token is shared between the nodes of a text, not copied; the least recently
used are dropped when all together hold more memory than allowed.

T tokens of a text.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from state_core.errors import ConfigError, InputError


@dataclass(frozen=True)
class CacheStats:
    """Texts read, and how many began like one read before; tokens read, and how many of them were
    not computed again; nodes and bytes held now, and nodes dropped so far."""

    texts: int = 0
    hits: int = 0
    tokens: int = 0
    tokens_reused: int = 0
    entries: int = 0
    bytes: int = 0
    dropped: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of texts that began like one read before."""
        return self.hits / max(self.texts, 1)


@dataclass(eq=False)
class _Node:
    """A prefix; `state` is what was carried after it, None if that was dropped."""

    parent: _Node | None = None
    block: bytes = b""
    children: dict[bytes, _Node] = field(default_factory=dict)
    state: Any = None
    memory: dict[int, int] = field(default_factory=dict)


class GraphCache:
    """Hand one to `model.generate(..., prefixes=cache)`, or read texts with `cache.read`."""

    def __init__(self, max_bytes: int = 256 << 20, block: int = 128) -> None:
        """max_bytes: memory that may be held; block: tokens between two points that a text can be
        continued from. ConfigError unless both are positive."""
        if max_bytes < 1 or block < 1:
            raise ConfigError(f"max_bytes and block must be positive, got {max_bytes} and {block}")
        self.max_bytes = max_bytes
        self.block = block
        self._roots: dict[str, _Node] = {}
        self._recent: OrderedDict[_Node, None] = OrderedDict()
        self._holders: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self._texts = self._hits = self._tokens = self._reused = self._dropped = 0

    @torch.no_grad()
    def read(self, model: Any, ids: Tensor) -> tuple[Any, Any]:
        """Read the text `ids` [1,T] with an SOSM: the cache to go on from, and the output of the
        text's last block. InputError for more than one text, none, or a model in training."""
        if ids.dim() != 2 or ids.shape[0] != 1 or ids.shape[1] == 0:
            raise InputError(f"GraphCache.read takes one text [1, T], T ≥ 1, got {list(ids.shape)}")
        if model.training:
            raise InputError("GraphCache.read needs a model that is not in training: model.eval()")
        blocks = ids.split(self.block, dim=1)
        node, read = self._longest(fingerprint(model), blocks[:-1])
        self._texts += 1
        self._hits += read > 0
        self._tokens += ids.shape[1]
        self._reused += read * self.block
        cache = model.new_cache() if read == 0 else node.state.snapshot()
        for block in blocks[read:]:
            out = model(block, cache=cache)
            if block.shape[1] == self.block:
                node = self._keep(node, block, cache)
        return cache, out

    @property
    def stats(self) -> CacheStats:
        return CacheStats(
            texts=self._texts,
            hits=self._hits,
            tokens=self._tokens,
            tokens_reused=self._reused,
            entries=len(self._recent),
            bytes=sum(self._sizes.values()),
            dropped=self._dropped,
        )

    def clear(self) -> None:
        """Drop everything that is held; the counts of texts and tokens go on."""
        while self._recent:
            self._drop(next(iter(self._recent)))

    def _longest(self, identity: str, blocks: tuple[Tensor, ...]) -> tuple[_Node, int]:
        """The node of the most blocks read before, and their number; else the root and 0."""
        node = best = self._roots.setdefault(identity, _Node(block=identity.encode()))
        read = 0
        for n, block in enumerate(blocks, start=1):
            found = node.children.get(_content(block))
            if found is None:
                break
            node = found
            if node.state is not None:
                best, read = node, n
        if read:
            self._recent.move_to_end(best)
        return best, read

    def _keep(self, parent: _Node, block: Tensor, cache: Any) -> _Node:
        """The node after `block`, holding a snapshot of `cache` if there is room for it."""
        content = _content(block)
        node = parent.children.setdefault(content, _Node(parent, content))
        if node.state is None:
            node.state = cache.snapshot()
            node.memory = {s.data_ptr(): s.nbytes() for s in _storages(node.state)}
            self._holders.update(node.memory.keys())
            self._sizes.update(node.memory)
            self._recent[node] = None
        self._recent.move_to_end(node)
        while self._recent and sum(self._sizes.values()) > self.max_bytes:
            self._drop(next(iter(self._recent)))
        return node

    def _drop(self, node: _Node) -> None:
        """Forget what a node holds, and the nodes that then lead nowhere."""
        del self._recent[node]
        for memory in node.memory:
            self._holders[memory] -= 1
            if not self._holders[memory]:
                del self._holders[memory], self._sizes[memory]
        node.state, node.memory = None, {}
        self._dropped += 1
        while node.parent is not None and node.state is None and not node.children:
            del node.parent.children[node.block]
            node = node.parent
        if node.parent is None and not node.children:
            self._roots.pop(node.block.decode(), None)


def fingerprint(model: nn.Module) -> str:
    """A digest of a model's configuration, weights and device, and of how torch computes."""
    device = next(model.parameters()).device
    computes = (
        str(device),
        torch.get_float32_matmul_precision(),
        torch.is_autocast_enabled(device.type),
        str(torch.get_autocast_dtype(device.type)),
    )
    about = {"config": model.config.to_dict(), "computes": computes}  # type: ignore[union-attr, operator]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _content(block: Tensor) -> bytes:
    return block.cpu().contiguous().numpy().tobytes()


def _storages(part: Any) -> Iterator[torch.UntypedStorage]:
    """The memory of all tensors that a state is made of."""
    if isinstance(part, Tensor):
        yield part.untyped_storage()
    elif isinstance(part, list):
        for one in part:
            yield from _storages(one)
    elif hasattr(part, "__dict__"):
        for one in vars(part).values():
            yield from _storages(one)
