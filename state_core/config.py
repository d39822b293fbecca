"""The one typed configuration tree.

Every improvement is a field, so that any can be switched off alone. The tree is frozen: derive a
new one with `override`. Presets follow the phases of the design; `default` is what we recommend.

    cfg = SOSMConfig.preset("default", vocab_size=4096)
    cfg = cfg.override({"graph.k_max": 8, "train.lr": 1e-3})
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from state_core.config_sections import (
    CAUSAL_ROUTING,
    AttentionConfig,
    DataConfig,
    GraphConfig,
    MambaConfig,
    MemoryConfig,
    MoEConfig,
    PointerConfig,
    Section,
    StateConfig,
    TrainConfig,
)
from state_core.errors import ConfigError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "CAUSAL_ROUTING",
    "PRESETS",
    "AttentionConfig",
    "DataConfig",
    "GraphConfig",
    "MambaConfig",
    "MemoryConfig",
    "MoEConfig",
    "PointerConfig",
    "SOSMConfig",
    "StateConfig",
    "TrainConfig",
    "parse_overrides",
]

Mixer = str  # a name registered in state_core.layers.registry


class SOSMConfig(Section):
    """The whole tree: a model, the text it reads and how it is trained."""

    vocab_size: int = Field(4096, ge=2)
    d_model: int = Field(128, ge=1)
    embed_rank: int = Field(64, ge=1)
    """Rank r of the factorised embedding V×r×D, which the output head shares."""
    layers: tuple[Mixer, ...] = ("mamba", "mamba", "graph_attention", "mamba")
    """The mixer of each layer, bottom to top: mamba, graph_attention, attention, …"""
    mlp_hidden: int = Field(384, ge=0)
    """Hidden width of the SwiGLU after each mixer; 0 leaves it out."""
    linear_rank: int = Field(0, ge=0)
    """Rank of the layers' matrices, each the product of two where that is smaller; 0: whole."""
    dropout: float = Field(0.0, ge=0, lt=1)
    objective: Literal["next_token", "masked"] = "next_token"
    """What the model learns: the next word, from those before it, or masked words, from both sides
    (an encoder, `SOSMEncoder`)."""
    state: StateConfig = StateConfig()
    graph: GraphConfig = GraphConfig()
    attention: AttentionConfig = AttentionConfig()
    mamba: MambaConfig = MambaConfig()
    moe: MoEConfig = MoEConfig()
    pointer: PointerConfig = PointerConfig()
    memory: MemoryConfig = MemoryConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()

    @field_validator("layers")
    @classmethod
    def _mixers_are_registered(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        from state_core.layers.registry import mixer_names

        for name in layers:
            if name not in mixer_names():
                raise ValueError(
                    f"unknown mixer {name!r} in layers: {nearest(name, mixer_names())}"
                )
        if not layers:
            raise ValueError("layers must name at least one mixer")
        return layers

    @model_validator(mode="after")
    def _parts_fit_together(self) -> SOSMConfig:
        from state_core.layers.registry import needs_graph

        readers = [name for name in self.layers if needs_graph(name)]
        readers += ["pointer"] if self.pointer.enabled else []
        readers += ["mamba.topological"] if self.mamba.topological else []
        if readers and not self.graph.enabled:
            raise ValueError(f"{readers[0]} reads the graph, but graph.enabled is false")
        by_landmarks = self.attention.positions in ("graph_alibi", "graph_rope")
        if by_landmarks and not (self.graph.enabled and self.graph.landmarks):
            raise ValueError(
                f"attention.positions = {self.attention.positions!r} reads landmark coordinates: "
                "set graph.landmarks, to 16 for example"
            )
        if self.attention.multi_block and self.graph.similarity != "blockwise":
            raise ValueError(
                "attention.multi_block needs graph.similarity = 'blockwise', "
                "where blocks choose the edges"
            )
        if self.attention.positions == "graph_alibi" and "attention" in self.layers:
            raise ValueError(
                "graph_alibi biases edges, and dense attention has none: "
                "use graph_attention layers, or attention.positions = 'alibi'"
            )
        unknown = set(self.graph.block_weights) - set(self.state.layout)
        if unknown:
            name = sorted(unknown)[0]
            raise ValueError(
                f"graph.block_weights names no block {name!r}: {nearest(name, self.state.layout)}"
            )
        if self.d_model % self.attention.n_heads:
            raise ValueError(
                f"d_model {self.d_model} must be a multiple of attention.n_heads "
                f"{self.attention.n_heads}"
            )
        return self

    @model_validator(mode="after")
    def _memory_has_a_reader(self) -> SOSMConfig:
        if not self.memory.enabled:
            return self
        if not self.graph.enabled or "graph_attention" not in self.layers:
            raise ValueError(
                "memory.enabled needs a graph_attention layer to read it, and the graph's "
                "similarity to find what is like a token"
            )
        if self.objective == "masked":
            raise ValueError("memory is of what was read before: an encoder has none")
        if not self.train.consecutive:
            raise ValueError(
                "a memory fills while a text is read in order: set train.consecutive = true"
            )
        return self

    @model_validator(mode="after")
    def _nobody_sees_what_it_predicts(self) -> SOSMConfig:
        if self.objective == "masked":
            if self.graph.enabled and self.graph.causal:
                raise ValueError("an encoder sees both sides: set graph.causal = false")
            if self.pointer.enabled:
                raise ValueError(
                    "the pointer head votes for the next word, which an encoder does not predict: "
                    "set pointer.enabled = false"
                )
            return self
        if not self.graph.causal:
            raise ValueError(
                "a language model needs graph.causal = true: a bidirectional graph would show it "
                "the words it predicts. Build one with build_graph(state, cfg.graph) instead, or "
                "an encoder with objective = 'masked'"
            )
        if self.moe.routing in CAUSAL_ROUTING:
            raise ValueError(
                f"moe.routing = {self.moe.routing!r} weighs each token against later ones, which a "
                f"language model must not see. {CAUSAL_ROUTING[self.moe.routing]!r} is its causal "
                "counterpart; an encoder (objective = 'masked') may use it"
            )
        return self

    @classmethod
    def preset(cls, name: str, **values: Any) -> SOSMConfig:
        """A named configuration; `values` set top-level fields such as `vocab_size`."""
        if name not in PRESETS:
            raise ConfigError(f"unknown preset {name!r}: {nearest(name, PRESETS)}")
        return cls.from_dict(PRESETS[name]).override(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SOSMConfig:
        """Build from nested mappings; ConfigError names what is wrong and what is valid."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_readable(error)) from None

    @classmethod
    def from_file(cls, path: str | Path) -> SOSMConfig:
        """Read a .toml or .json file. The key `preset`, if given, is what the file builds on."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the configuration {path}: {error}") from None
        base = cls.preset(values.pop("preset", "default"))
        return cls.from_dict(_merge(base.to_dict(), values))

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, ready for JSON."""
        return self.model_dump(mode="json")

    def override(self, values: Mapping[str, Any]) -> SOSMConfig:
        """A new tree with dotted keys replaced: `{"graph.k_max": 8}`."""
        tree = self.to_dict()
        for dotted, value in values.items():
            *parents, leaf = dotted.split(".")
            section = tree
            for depth, parent in enumerate(parents):
                if not isinstance(section.get(parent), dict):
                    _unknown_key(".".join(parents[: depth + 1]), dotted, section)
                section = section[parent]
            if leaf not in section and not _is_free_table(parents):
                _unknown_key(dotted, dotted, section)
            section[leaf] = value
        return self.from_dict(tree)


def parse_overrides(assignments: list[str]) -> dict[str, Any]:
    """`["graph.k_max=8", "data.source=kjv"]` → a mapping for `SOSMConfig.override`.

    The right-hand side is read as a TOML value, and as a plain string if it is none.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"cannot read the override {assignment!r}: write section.key=value")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text.strip()
    return values


def _is_free_table(parents: list[str]) -> bool:
    """Tables whose keys are the researcher's own (block names), not fields."""
    return ".".join(parents) in {"state.layout", "state.half_lives", "graph.block_weights"}


def _unknown_key(key: str, dotted: str, section: Mapping[str, Any]) -> None:
    hint = nearest(key.rsplit(".", 1)[-1], section)
    raise ConfigError(f"unknown configuration key {dotted!r}: {hint}")


def _merge(base: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    free = ("layout", "half_lives", "block_weights")
    merged = dict(base)
    for key, value in values.items():
        inner = merged.get(key)
        nested = isinstance(inner, dict) and isinstance(value, Mapping) and key not in free
        merged[key] = _merge(inner, value) if nested else value  # type: ignore[arg-type]
    return merged


def _readable(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            fields = _fields_at(item["loc"][:-1])
            lines.append(
                f"unknown configuration key {path!r}: {nearest(str(item['loc'][-1]), fields)}"
            )
        else:
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{path}: {message}" if path else message)
    return "\n".join(lines)


def _fields_at(path: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = SOSMConfig
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        if not isinstance(annotation, type) or not issubclass(annotation, BaseModel):
            return []
        model = annotation
    return list(model.model_fields)


_NO_GRAPH: dict[str, Any] = {"graph": {"enabled": False}, "pointer": {"enabled": False}}
_PHASE1: dict[str, Any] = {
    "layers": ("mamba", "mamba", "graph_attention", "mamba"),
    "graph": {"similarity": "full", "adaptive_k": False, "mutual": True},
    "pointer": {"enabled": False},
    "train": {"precision": "bf16", "k1_every": 10},
}
_PHASE2: dict[str, Any] = _merge(
    _PHASE1, {"graph": {"similarity": "blockwise", "adaptive_k": True}}
)

_PHASE3: dict[str, Any] = _merge(
    _PHASE2, {"graph": {"temporal_gate": True, "shortcuts": "betweenness"}}
)
_PHASE4: dict[str, Any] = _merge(
    _PHASE3,
    {
        "attention": {"multi_block": True},
        "memory": {"enabled": True},
        "train": {"consecutive": True},
    },
)
_PHASE6: dict[str, Any] = _merge(
    _PHASE4,
    {
        "layers": ("mamba", "mamba", "graph_attention", "mamba", "mamba"),
        "mlp_hidden": 248,  # five layers of as many parameters as four
        "graph": {"landmarks": 16},
        "pointer": {"enabled": True},
        "attention": {"differential": True, "positions": "graph_rope"},
        "mamba": {"topological": True},
    },
)

PRESETS: dict[str, dict[str, Any]] = {
    "baseline": {**_NO_GRAPH, "layers": ("attention",) * 6},
    "mamba2": {**_NO_GRAPH, "layers": ("mamba",) * 4},
    "phase1": _PHASE1,
    "phase2": _PHASE2,
    "phase3": _PHASE3,
    "phase4": _PHASE4,
    "phase6": _PHASE6,
    "default": {},
}
