"""The sections of the configuration tree, one for each part of the package.

A field is here once it can be switched; `config.SOSMConfig` is the tree, and says what fits with
what.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Source = Literal["token", "local", "long", "position", "all"]
# Routing that looks at the whole text → what does the same from the past alone.
CAUSAL_ROUTING = {"expert_choice": "expert_threshold", "soft": "token_choice"}


class Section(BaseModel):
    """A part of the tree: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class StateConfig(Section):
    """The semantic state (meaning units) and the temporal state of a token."""

    layout: dict[str, Source] = {
        "I": "token", "S": "token", "R1": "local", "R2": "local",
        "C1": "local", "K": "long", "C2": "long", "T": "local",
        "G": "long", "M": "local", "D": "long", "F": "long",
        "P": "position", "E": "token", "A": "token", "X": "all",
    }  # fmt: skip
    """Block name → the source it is computed from, in the order of the blocks."""
    local_width: int = Field(4, ge=1)
    """How many tokens, the current one included, a `local` block sees."""
    half_lives: dict[str, float] = {"K": 16, "F": 32, "C2": 64, "D": 128, "G": 512}
    """Half-life in tokens of each `long` block's exponential average."""
    temporal_dim: int = Field(32, ge=8)
    """Width P of the temporal state."""
    temporal_rank: int = Field(16, ge=1)
    """Rank of the factorised table, by token id, inside the temporal state."""

    @model_validator(mode="after")
    def _every_long_block_has_a_half_life(self) -> StateConfig:
        long = {name for name, source in self.layout.items() if source == "long"}
        if long != set(self.half_lives):
            raise ValueError(
                f"state.half_lives must name the long blocks {sorted(long)}, "
                f"got {sorted(self.half_lives)}"
            )
        if any(h <= 0 for h in self.half_lives.values()):
            raise ValueError("state.half_lives must be positive")
        return self


class GraphConfig(Section):
    """How the token graph is built."""

    enabled: bool = True
    causal: bool = True
    """False builds a bidirectional graph, for encoders; a language model refuses it."""
    window: int = Field(8, ge=0)
    """Sequential edges: every token looks at itself and at the `window` tokens before it."""
    sinks: int = Field(2, ge=0)
    """Every token looks at the first `sinks` tokens, so that attention has somewhere to rest."""
    semantic: bool = True
    """Edges to the most similar earlier tokens outside the window."""
    source: Literal["topk", "lsh"] = "topk"
    """Where semantic edges come from: the most similar of all earlier tokens, or of those in the
    same buckets of a locality-sensitive hash, which costs less in long texts."""
    lsh_tables: int = Field(4, ge=1)
    """Hash tables: more find more."""
    lsh_bits: int = Field(6, ge=1, le=30)
    """Hyperplanes of a table: 2^bits buckets."""
    lsh_bucket: int = Field(16, ge=1)
    """Members of a bucket that are read, the most recent."""
    lsh_structure: float = Field(0.25, ge=0)
    """Weight in the hash of the blocks of structure, S and P, beside the similarity's blocks."""
    similarity: Literal["blockwise", "full", "projection"] = "blockwise"
    """Weighted cosines of chosen blocks, the cosine of the whole state, or the cosine of a fixed
    orthonormal projection of it."""
    block_weights: dict[str, float] = {"I": 0.5, "R2": 0.3, "K": 0.2}
    """Weight of each block's cosine in the blockwise similarity."""
    learn_weights: bool = False
    """Train the block weights (they stay positive and keep their sum)."""
    projection_dim: int = Field(16, ge=1)
    k_base: int = Field(8, ge=1)
    """Semantic edges of a token; with adaptive K, of a token of average ambiguity."""
    adaptive_k: bool = True
    """Ambiguous tokens get more edges: K_i = clamp(k_base + k_alpha · z_i, k_min, k_max)."""
    k_min: int = Field(3, ge=0)
    k_max: int = Field(12, ge=1)
    k_alpha: float = 1.5
    ambiguity: Literal["scores", "block_norms"] = "scores"
    """Entropy of the row's best similarities, or of the norms of the state's blocks."""
    mutual: bool = False
    """Keep i→j only if i is also among j's best over the tokens up to i (fewer hubs)."""
    successor: bool = False
    """For a semantic edge i→j also i→j+1: what followed last time. Off: the pointer head says the
    same, and beside it these edges changed nothing (experiments/quickstart_ablation.py)."""
    temporal_gate: bool = False
    """Semantic edges must pass a learned gate on when their two tokens are due:
    (sim > tau_mu and gate > tau_temp) or sim > tau_high."""
    tau_mu: float = 0.15
    """Similarity that an edge needs besides its gate."""
    tau_temp: float = Field(0.3, ge=0, le=1)
    """Gate, between 0 and 1, that an edge needs besides its similarity."""
    tau_high: float = 0.9
    """Similarity that needs no gate; one in ten of a text's best similarities is higher."""
    shortcuts: Literal["none", "betweenness", "random", "fibonacci"] = "none"
    """Edges across the text: to the bridges of the finished prefix (most shortest paths run through
    them), to tokens drawn evenly, or a Fibonacci number of tokens back."""
    shortcut_count: int = Field(4, ge=1)
    """Shortcuts of a token."""
    chunk: int = Field(64, ge=1)
    """Tokens between borders, where bridges and landmarks are chosen from the finished prefix."""
    landmarks: int = Field(0, ge=0, le=64)
    """Landmarks of a text, at most; a token's distances to them are its coordinates. 0: none."""
    encoding: Literal["none", "degree", "random_walk"] = "none"
    """What of a token's place in the graph is added to its embedding: how many edges it and those
    it looks at have, or how likely a walk from it is to come back (zero-initialised)."""

    @model_validator(mode="after")
    def _bounds_of_k_are_ordered(self) -> GraphConfig:
        if not self.k_min <= self.k_base <= self.k_max:
            raise ValueError(
                f"graph needs k_min ≤ k_base ≤ k_max, got {self.k_min}, {self.k_base}, {self.k_max}"
            )
        if any(w < 0 for w in self.block_weights.values()) or not sum(self.block_weights.values()):
            raise ValueError("graph.block_weights must be ≥ 0 and not all zero")
        return self

    @model_validator(mode="after")
    def _walks_are_causal(self) -> GraphConfig:
        if self.encoding == "random_walk" and not self.causal:
            raise ValueError(
                "graph.encoding = random_walk walks in each token's past, and needs graph.causal: "
                "of a bidirectional graph ops.random_walk_pe tells the same"
            )
        return self

    @model_validator(mode="after")
    def _gate_has_edges_and_a_say(self) -> GraphConfig:
        if not self.temporal_gate:
            return self
        if not self.semantic:
            raise ValueError("graph.temporal_gate judges semantic edges, but graph.semantic is off")
        if self.tau_mu > self.tau_high:
            raise ValueError(
                f"graph needs tau_mu ≤ tau_high, got {self.tau_mu} and {self.tau_high}: an edge "
                "similar enough to need no gate would fail for want of similarity"
            )
        return self

    @model_validator(mode="after")
    def _lsh_reads_the_past(self) -> GraphConfig:
        if self.source == "lsh" and (self.mutual or not self.causal):
            raise ValueError(
                "graph.source = 'lsh' reads a few earlier tokens; graph.mutual compares with every "
                "later one, and a bidirectional graph looks ahead: use source = 'topk' for both"
            )
        return self

    @property
    def needs_degree(self) -> bool:
        """Whether tokens are told how much is looked at: by the encoding, or beside landmarks."""
        return self.encoding == "degree" or self.landmarks > 0

    @property
    def needs_structure(self) -> bool:
        """Whether anything is made of the graph's shape."""
        return self.shortcuts != "none" or self.needs_degree or self.needs_rows

    @property
    def needs_rows(self) -> bool:
        """Whether the rows of earlier tokens must be at hand, as a graph to search."""
        return (
            self.shortcuts == "betweenness" or self.landmarks > 0 or self.encoding == "random_walk"
        )

    @property
    def max_k(self) -> int:
        """The most semantic edges that a row can have."""
        return self.k_max if self.adaptive_k else self.k_base


class AttentionConfig(Section):
    """Attention layers, over the graph's edges or dense."""

    n_heads: int = Field(4, ge=1)
    positions: Literal["rope", "alibi", "graph_alibi", "graph_rope", "none"] = "rope"
    """How queries and keys know where they are: rotated by position (RoPE), or biased against
    distance (ALiBi); `graph_…` takes the landmark coordinates in, alone (Graph-ALiBi) or beside the
    position (Graph-RoPE)."""
    rope_base: float = Field(10_000.0, gt=0)
    differential: bool = False
    """The difference of two softmax maps (Differential Transformer): heads work in pairs."""
    multi_block: bool = False
    """A head sees the edges of one block of the similarity, and the global heads see all."""
    global_heads: int = Field(1, ge=1)
    """Heads that see every edge beside multi-block heads; pairs of heads if differential."""
    learned_mask: bool = False
    """Each head learns below which similarity it ignores an edge (straight-through estimate)."""

    @model_validator(mode="before")
    @classmethod
    def _read_the_old_switch(cls, values: Any) -> Any:
        """Checkpoints of before `positions` say `rope: true` or `false`."""
        if isinstance(values, Mapping) and isinstance(values.get("rope"), bool):
            values = dict(values)
            values.setdefault("positions", "rope" if values.pop("rope") else "none")
        return values

    @model_validator(mode="after")
    def _heads_suffice(self) -> AttentionConfig:
        if self.differential and self.n_heads % 2:
            raise ValueError(
                f"attention.differential pairs heads: n_heads must be even, got {self.n_heads}"
            )
        groups = self.n_heads // (2 if self.differential else 1)
        if self.multi_block and groups <= self.global_heads:
            raise ValueError(
                f"attention.multi_block needs heads beside the global ones: there are {groups}, "
                f"and attention.global_heads = {self.global_heads}"
            )
        return self


class MambaConfig(Section):
    """Mamba-2 layers (arXiv 2405.21060), named as in `mamba_ssm.Mamba2`."""

    d_state: int = Field(64, ge=1)
    d_conv: int = Field(4, ge=1)
    expand: float = Field(2.0, gt=0)
    headdim: int = Field(64, ge=1)
    ngroups: int = Field(1, ge=1)
    chunk_size: int = Field(64, ge=1)
    topological: bool = False
    """The graph says as well how far a token resets the state: Δ = softplus(W x + U φ + b)."""


class MoEConfig(Section):
    """Routed experts in place of the SwiGLU."""

    routing: Literal["none", "token_choice", "expert_threshold", "expert_choice", "soft"] = "none"
    """Who chooses: tokens, or experts by a threshold (both causal); experts among the tokens of a
    text, or no one, every expert reading mixtures of all (both for encoders)."""
    n_experts: int = Field(8, ge=2)
    per_token: int = Field(2, ge=1)
    """Experts of a token: exactly (token_choice) or on average (where experts choose)."""
    hidden: int = Field(192, ge=1)
    """Hidden width of each expert. With mlp_hidden / per_token a token costs what it did before."""
    slots: int = Field(16, ge=1)
    """Slots of each expert (soft)."""
    balance: float = Field(0.01, ge=0)
    """Weight of the loss that balances experts (token_choice)."""
    from_layer: int = Field(0, ge=0)
    """The first layer whose feed-forward is routed."""

    @model_validator(mode="after")
    def _enough_experts(self) -> MoEConfig:
        if self.per_token > self.n_experts:
            raise ValueError(
                f"moe.per_token {self.per_token} is more than moe.n_experts {self.n_experts}"
            )
        return self


class PointerConfig(Section):
    """The pointer head: the graph's edges vote for the word that followed their target."""

    enabled: bool = True
    dim: int = Field(32, ge=1)
    """Width of the pointer's queries and keys."""


class MemoryConfig(Section):
    """What is remembered of earlier segments, for the uppermost graph attention and the pointer."""

    enabled: bool = False
    kind: Literal["exact", "hnsw"] = "exact"
    """What finds the most similar tokens: all are compared, or those an HNSW graph leads to."""
    k: int = Field(8, ge=1)
    """Items retrieved for a token."""
    capacity: int = Field(8192, ge=1)
    """Tokens that each text's memory holds while training, the latest."""


class DataConfig(Section):
    """What text is read."""

    source: str = "shakespeare"
    """A named corpus, a file, a folder or a glob."""
    split_seed: int = 0
    """Seed of the split by document, for corpora without a split of their own."""


class TrainConfig(Section):
    """The training loop."""

    steps: int = Field(400, ge=0)
    batch_size: int = Field(8, ge=1)
    seq_len: int = Field(512, ge=1)
    consecutive: bool = False
    """Batches are consecutive segments of as many texts as a batch has rows, as a memory needs;
    without it they are windows in random order."""
    accumulate: int = Field(1, ge=1)
    """Batches per optimiser step."""
    lr: float = Field(8e-3, gt=0)
    min_lr_ratio: float = Field(0.1, ge=0, le=1)
    warmup: int = Field(50, ge=0)
    """Steps of linear warm-up before the cosine decay; cut to the run's length if longer."""
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = Field(1.0, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    matmul: Literal["highest", "medium"] = "medium"
    """Float32 matrix products: "highest" takes the BLAS that torch was built with, "medium" lets
    torch take oneDNN on CPU (as exact where the CPU has no bf16 tiles, and twice as fast on some),
    and bf16 tensor cores on GPU."""
    activation_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, more time."""
    eval_every: int = Field(200, ge=1)
    eval_batches: int = Field(8, ge=1)
    save_every: int = Field(200, ge=1)
    log_every: int = Field(10, ge=1)
    k1_every: int = Field(0, ge=0)
    """Log K-1 responsibilities every so many steps; 0 never does."""
    k1_strength: float = Field(0.0, ge=0)
    """K-1 scales updates along the path of responsibility: the less of the gradient a part has
    beside its siblings, the shorter its steps, at every level of the tree. 0 scales nothing. The
    K-1 lines of the log tell what is left of the learning rate on average (`mean_scale`): compare
    with a run of a rate so much lower."""
    seed: int = 0
    tensorboard: bool = False
    wandb: bool = False
    """Log to Weights & Biases as well, offline."""
