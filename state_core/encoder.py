"""SOSMEncoder: reads a text from both sides and predicts the words that were masked.

The same backbone over a bidirectional graph, with Mamba scanning both ways and dense attention
without a causal mask (the semantic state still looks back only). For tasks where the whole text is
known, such as telling senses apart. It is trained as BERT (arXiv 1810.04805); it neither generates
nor has a perplexity.

B batch, T tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from state_core import ops
from state_core.config import SOSMConfig
from state_core.errors import CausalityError, ConfigError, InputError
from state_core.output import SOSMOutput
from state_core.pipeline import IGNORED, Backbone, check_ids

HIDDEN, SWAPPED = 0.8, 0.1  # of the words chosen; the rest stays as it is


class SOSMEncoder(Backbone):
    """A masked language model. Its vocabulary has one id more, `mask_id`."""

    def __init__(self, config: SOSMConfig) -> None:
        if config.objective != "masked":
            raise ConfigError(
                "SOSMEncoder needs objective = 'masked': use SOSMEncoder(encoder_config(config)); "
                "a language model is SOSM(config)"
            )
        super().__init__(config, config.vocab_size + 1)

    @property
    def mask_id(self) -> int:
        """What stands where a word is hidden."""
        return self.config.vocab_size

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        return_graph: bool = False,
        return_state: bool = False,
    ) -> SOSMOutput:
        """Read `input_ids` [B,T], in which `mask_id` hides words.

        labels [B,T]: the word at each position, not shifted; −100 is ignored. `out.hidden` [B,T,D]
        is what each token came to mean, `out.token_nll` [B,T] the loss of each label.
        InputError for ids or labels of the wrong shape, type or range.
        """
        check_ids(input_ids, self.mask_id + 1)
        batch, length = input_ids.shape
        positions = torch.arange(length, device=input_ids.device).expand(batch, length)
        encoded = self.encode(input_ids, positions)
        nll, loss = self._loss(encoded.hidden, labels)
        return SOSMOutput(
            hidden=encoded.hidden,
            vocabulary_logits=lambda hidden: self.embedding.logits(hidden)[..., : self.mask_id],
            loss=loss,
            token_nll=nll,
            graph=encoded.graph if return_graph else None,
            state=encoded.state if return_state else None,
            aux_loss=encoded.aux_loss,
            routing=encoded.routing,
        )

    def _loss(self, hidden: Tensor, labels: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Negative log-likelihood of each label [B,T], and its mean."""
        if labels is None:
            return None, None
        if labels.shape != hidden.shape[:2] or labels.dtype != torch.int64:
            raise InputError(
                f"labels must be int64 {list(hidden.shape[:2])}, "
                f"got {labels.dtype} {list(labels.shape)}"
            )
        kept = labels != IGNORED
        if bool((kept & ((labels < 0) | (labels >= self.mask_id))).any()):
            raise InputError(f"labels must be −100 or ids below {self.mask_id}")
        codes = self.embedding.contract(hidden)
        words = self.embedding.codes.weight[: self.mask_id]
        log_p = ops.token_logprob(codes.flatten(0, 1), words, labels.flatten()).view_as(labels)
        nll = torch.where(kept, -log_p, 0)
        return nll, nll.sum() / kept.sum().clamp(min=1)

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: an encoder reads both sides, and a text under way has one."""
        raise CausalityError("an encoder cannot generate: it predicts words from both sides")

    def save_pretrained(self, directory: str | Path) -> None:
        """Write model.safetensors and config.json, atomically."""
        from state_core.checkpoint import save_model

        save_model(self, Path(directory))

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> SOSMEncoder:
        """Load what `save_pretrained` wrote; CheckpointError if it is missing or altered."""
        from state_core.checkpoint import load_model

        return load_model(Path(directory), cls)


def encoder_config(config: SOSMConfig) -> SOSMConfig:
    """`config` for an encoder: masked words, a bidirectional graph, no pointer to the next word."""
    return config.override({"objective": "masked", "graph.causal": False, "pointer.enabled": False})


def mask_tokens(
    ids: Tensor, vocab_size: int, seed: int, rate: float = 0.15
) -> tuple[Tensor, Tensor]:
    """Hide words of `ids` [B,T]: what an encoder reads, and its labels.

    A share `rate` is chosen, at least one word of a text; of them 80 % become the mask's id
    (`vocab_size`), 10 % another word, 10 % stay. The same seed masks alike on every device.
    """
    if not 0 < rate <= 1:
        raise InputError(f"the share of masked words must be in (0, 1], got {rate}")
    generator = torch.Generator().manual_seed(seed)
    draw, fate = torch.rand(2, *ids.shape, generator=generator).to(ids.device)
    others = torch.randint(vocab_size, ids.shape, generator=generator).to(ids.device)
    chosen = (draw < rate) | (draw == draw.amin(1, keepdim=True))
    other = torch.where(fate < HIDDEN + SWAPPED, others, ids)
    masked = torch.where(fate < HIDDEN, vocab_size, other)
    return torch.where(chosen, masked, ids), torch.where(chosen, ids, IGNORED)
