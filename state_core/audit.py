"""The causality audit: does any position see what follows it?

The same text is read with everything after a prefix replaced, for prefixes around every border
inside the model. Whatever the model says, builds or decides within the prefix must not change.
A model that fails prints no perplexity.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from state_core.adapters.moving_average import CHUNK
from state_core.config import SOSMConfig
from state_core.errors import CausalityError
from state_core.memory.text_memory import TextMemory
from state_core.output import SOSMOutput
from state_core.pipeline import SOSM

# Rows of one batch are computed alike, so causal parts agree to the last bits of float32.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Finding:
    """How much `part` changed inside a prefix when what follows the prefix was replaced."""

    part: str
    mode: str
    prefix: int
    change: float

    @property
    def leaks(self) -> bool:
        return not self.change <= TOLERANCE


@dataclass(frozen=True)
class CausalityReport:
    """All findings; `passed` if no part leaks."""

    findings: list[Finding]
    length: int

    @property
    def passed(self) -> bool:
        return not self.leaks

    @property
    def leaks(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.leaks]

    @property
    def leaking_parts(self) -> list[str]:
        return sorted({finding.part for finding in self.leaks})

    def __str__(self) -> str:
        prefixes = len({finding.prefix for finding in self.findings})
        what = f"{prefixes} prefixes of {self.length} tokens, evaluating and training"
        if self.passed:
            return f"causality audit passed: nothing changes before a replaced token ({what})"
        lines = [f"causality audit FAILED ({what}); a position sees what follows it:"]
        for part in self.leaking_parts:
            worst = max((f for f in self.leaks if f.part == part), key=lambda f: f.change)
            lines.append(
                f"  {part}: changes by {worst.change:.3g} within a prefix of {worst.prefix} "
                f"when later tokens are replaced ({worst.mode})"
            )
        return "\n".join(lines)


def audit_causality(model: SOSM, length: int | None = None, seed: int = 0) -> CausalityReport:
    """Audit `model` by suffix perturbation over prefixes around every border.

    length: tokens of the probe, by default enough to cross every chunk border twice. The model is
    left as it was, its running statistics and random state included. CausalityError for an encoder,
    which means to see both sides.
    """
    if model.config.objective != "next_token":
        raise CausalityError("an encoder sees both sides of a word: it has no perplexity to gate")
    chunks = CHUNK, model.config.mamba.chunk_size, model.config.graph.chunk
    length = length or 2 * max(chunks) + 9
    prefixes = _prefixes(model.config, length)
    ids = _probe(model, prefixes, length, seed)
    findings = []
    for mode in ("eval", "train"):
        with _undisturbed(model), torch.no_grad():
            model.train(mode == "train")
            memory = _memory(model, len(ids), length, seed)
            out = model(ids, labels=ids, return_graph=True, return_state=True, memory=memory)
            parts = _parts(out)
        for row, prefix in enumerate(prefixes, start=1):
            for name, values in parts.items():
                # token_nll[t] is of token t+1, so it ends one earlier.
                seen = prefix - 1 if name == "token_nll" else prefix
                change = _change(values[0, :seen], values[row, :seen])
                findings.append(Finding(name, mode, prefix, change))
    return CausalityReport(findings, length)


def _prefixes(config: SOSMConfig, length: int) -> list[int]:
    borders = {1, 2, config.graph.window, config.graph.window + 1, config.state.local_width, length}
    for step in (CHUNK, config.mamba.chunk_size, config.graph.chunk):
        borders |= set(range(step, length, step))
    around = {border + offset for border in borders for offset in (-1, 0, 1)}
    return sorted(prefix for prefix in around if 1 <= prefix < length)


def _probe(model: SOSM, prefixes: list[int], length: int, seed: int) -> Tensor:
    """Row 0 a text, then one row per prefix with everything after the prefix replaced.

    Few distinct words, so that there are repetitions for the graph and the pointer to find.
    """
    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.config.vocab_size
    words = torch.randint(vocabulary, (min(vocabulary, 24),), generator=generator)
    shape = (len(prefixes) + 1, length)
    ids = words[torch.randint(len(words), shape, generator=generator)]
    for row, prefix in enumerate(prefixes, start=1):
        ids[row, :prefix] = ids[0, :prefix]
        # At least the very next token differs.
        ids[row, prefix] = (ids[0, prefix] + 1) % vocabulary
    return ids.to(model.embedding.codes.weight.device)


def _memory(model: SOSM, rows: int, length: int, seed: int) -> TextMemory | None:
    """For a model that remembers: of every row the same earlier segment."""
    if not model.config.memory.enabled:
        return None
    memory = model.new_memory(rows)
    earlier = _probe(model, [], length, seed + 1)[:1].expand(rows, -1)
    memory.append(earlier, model(earlier, memory=memory).keepsake)
    return memory


def _parts(out: SOSMOutput) -> dict[str, Tensor]:
    """Everything a position must not owe to later ones, each [B,T,...]."""
    parts = {"logits": out.logits, "hidden": out.hidden}
    if out.token_nll is not None:
        parts["token_nll"] = out.token_nll
    if out.state is not None:
        parts |= {"state.semantic": out.state.semantic, "state.temporal": out.state.temporal}
    if out.graph is not None:
        parts |= {
            "graph.edges": out.graph.neighbors,
            "graph.kinds": torch.where(out.graph.neighbors >= 0, out.graph.kinds, -1),
            "graph.weights": out.graph.weights,
        }
        made = {
            "graph.gates": out.graph.log_gates,
            "graph.refused": None if out.graph.refused is None else out.graph.refused.neighbors,
            "graph.coordinates": out.graph.coordinates,
            "graph.degree": out.graph.degree,
            "graph.walk": out.graph.walk,
        }
        parts |= {name: values for name, values in made.items() if values is not None}
    if out.recalled is not None:
        parts |= {"memory.items": out.recalled.items}
        parts |= {
            "memory.similarities": out.recalled.similarities.masked_fill(~out.recalled.known, 0)
        }
    parts |= {f"routing.{n}": routed.gates for n, routed in enumerate(out.routing)}
    if out.votes is not None:
        parts |= {"pointer.words": out.votes.words, "pointer.shares": out.votes.log_share.exp()}
    return parts


def _change(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the values' size; 1 or more where NaN appears."""
    if not a.numel():
        return 0.0
    a, b = a.double(), b.double()
    if not bool(torch.equal(a.isnan(), b.isnan())):
        return float("inf")
    scale = max(float(a.nan_to_num().abs().max()), 1e-6)
    return float((a - b).nan_to_num().abs().max()) / scale


@contextmanager
def _undisturbed(model: SOSM) -> Iterator[None]:
    """Put mode, buffers, random state and dropout back as they were; no dropout meanwhile, since it
    would draw differently for each row."""
    training = model.training
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dropouts = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
        rates = [m.p for m in dropouts]
        for module in dropouts:
            module.p = 0.0
        try:
            yield
        finally:
            for module, rate in zip(dropouts, rates, strict=True):
                module.p = rate
            model.train(training)
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])
