"""What experts are given: how evenly, and whether an expert comes to read one class of tokens.

N tokens, B texts, T tokens of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.ledger import Setting
from experiments.measures import planned
from state_core.config import SOSMConfig
from state_core.encoder import SOSMEncoder, encoder_config, mask_tokens
from state_core.layers.moe import Routing
from state_core.training.batches import Batches
from state_core.training.optim import build_optimizer, set_learning_rate
from state_core.training.run import load_text
from state_core.training.schedule import learning_rate

CLASSES = ("space", "word", "capitalised", "continuation", "punctuation", "other")
SHUFFLES = 8
ENCODER = {
    "d_model": 64,
    "embed_rank": 64,
    "layers": ["mamba", "graph_attention"],
    "train.seq_len": 128,
    "train.lr": 3e-3,
    "moe.hidden": 32,
}


# --- load ------------------------------------------------------------------------------------


def variation(routing: Sequence[Routing]) -> float:
    """Standard deviation of the experts' loads over their mean; the mean over layers."""
    found = [float(r.usage.std(correction=0) / r.usage.mean()) for r in routing]
    return math.fsum(found) / len(found)


@dataclass(frozen=True)
class Trained:
    """What training an encoder showed: its loss, step by step, and how uneven its experts' loads
    were on the last batch."""

    losses: list[float]
    variation: float

    @property
    def fall(self) -> float:
        """The loss of the last tenth of the steps over that of the first."""
        tenth = max(1, len(self.losses) // 10)
        return math.fsum(self.losses[-tenth:]) / math.fsum(self.losses[:tenth])


def train_encoder(setting: Setting, routing: str, seed: int) -> Trained:
    """Train a small encoder, whose experts may see a whole text, to find masked words."""
    base = SOSMConfig.preset("default").override({**ENCODER, "moe.routing": "none"})
    config = planned(setting, encoder_config(base).override({"moe.routing": routing}), seed)
    text = load_text(config)
    config = config.override({"vocab_size": text.tokenizer.vocab_size})
    train = config.train
    batches = Batches(text.train, train.batch_size, train.seq_len, seed)
    setting.data.add(batches.data_hash())
    torch.manual_seed(seed)
    model = SOSMEncoder(config).train()
    optimizer = build_optimizer(model, train)
    losses = []
    for step in range(train.steps):
        ids, labels = mask_tokens(batches.next(), config.vocab_size, seed * train.steps + step)
        out = model(ids, labels=labels)
        assert out.loss is not None
        out.loss.backward()
        losses.append(float(out.loss.detach()))
        nn.utils.clip_grad_norm_(model.parameters(), train.grad_clip)
        set_learning_rate(optimizer, learning_rate(step, train))
        optimizer.step()
        optimizer.zero_grad()
    return Trained(losses, variation(out.routing))


# --- specialisation --------------------------------------------------------------------------


def token_class(piece: str) -> int:
    """What kind of token a piece of text is, an index into `CLASSES`."""
    bare = piece.strip()
    if not bare:
        return CLASSES.index("space")
    if not any(c.isalnum() for c in bare):
        return CLASSES.index("punctuation")
    if not bare[0].isalpha():
        return CLASSES.index("other")
    if bare[0].isupper():
        return CLASSES.index("capitalised")
    return CLASSES.index("word" if piece[0].isspace() else "continuation")


def mutual_information(experts: Tensor, classes: Tensor) -> float:
    """Bits that a token's expert tells of its class, [N] each, less what they would tell by chance:
    the mean over shuffled classes, since the estimate from few tokens is biased upwards."""
    generator = torch.Generator().manual_seed(0)
    chance = [
        _information(experts, classes[torch.randperm(len(classes), generator=generator)])
        for _ in range(SHUFFLES)
    ]
    return _information(experts, classes) - math.fsum(chance) / SHUFFLES


def specialisation(routing: Sequence[Routing], classes: Tensor) -> float:
    """The information of the first expert of each token and its class [B,T], the mean over
    layers."""
    found = [mutual_information(r.gates.argmax(-1).flatten(), classes.flatten()) for r in routing]
    return math.fsum(found) / len(found)


def _information(a: Tensor, b: Tensor) -> float:
    size = int(b.max()) + 1
    joint = torch.bincount(a * size + b, minlength=(int(a.max()) + 1) * size).double()
    joint = joint.view(-1, size) / len(a)
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    seen = joint > 0
    return float((joint[seen] * (joint[seen] / independent[seen]).log2()).sum())
