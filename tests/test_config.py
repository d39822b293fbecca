"""The configuration tree: presets, files, overrides, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from state_core import SOSM
from state_core.config import PRESETS, SOSMConfig, parse_overrides
from state_core.errors import ConfigError


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_round_trip(name: str) -> None:
    config = SOSMConfig.preset(name, vocab_size=100)
    assert config.vocab_size == 100
    assert SOSMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_presets_are_what_they_say() -> None:
    assert set(SOSMConfig.preset("baseline").layers) == {"attention"}
    assert not SOSMConfig.preset("baseline").graph.enabled
    phase1, phase2 = SOSMConfig.preset("phase1"), SOSMConfig.preset("phase2")
    assert phase1.graph.mutual
    assert phase1.train.precision == "bf16"
    assert phase1.train.k1_every == 10
    assert len(phase1.layers) == 4 < len(SOSMConfig.preset("baseline").layers)
    assert phase2.graph.similarity == "blockwise"
    assert phase2.graph.adaptive_k
    assert not phase2.pointer.enabled
    assert SOSMConfig.preset("default").pointer.enabled
    phase3, phase6 = SOSMConfig.preset("phase3"), SOSMConfig.preset("phase6")
    assert phase3.graph.temporal_gate
    assert phase3.graph.shortcuts == "betweenness"
    assert phase6.graph.landmarks
    assert phase6.layers.count("mamba") == 4 * phase6.layers.count("graph_attention")


def test_parts_that_are_off_leave_no_trace_in_the_model() -> None:
    """What the default is made of stays as it was before they came: names, shapes, no more."""
    small = {"vocab_size": 50, "d_model": 32, "layers": ["graph_attention"]}
    plain = SOSM(SOSMConfig.preset("default").override(small)).state_dict()
    assert not any("graph_builder.gate" in name or "encoding" in name for name in plain)
    assert plain["blocks.0.mixer.kind_bias"].shape == (4, 4)
    assert plain["pointer.kind_bias"].shape == (4,)
    parts = {"graph.temporal_gate": True, "graph.shortcuts": "random", "graph.encoding": "degree"}
    full = SOSM(SOSMConfig.preset("default").override({**small, **parts})).state_dict()
    assert full.keys() > plain.keys()
    assert full["blocks.0.mixer.kind_bias"].shape == (5, 4)


def test_override_and_frozen() -> None:
    config = SOSMConfig.preset("default")
    changed = config.override({"graph.k_max": 16, "train.lr": 1e-3, "layers": ["mamba"]})
    assert (changed.graph.k_max, changed.train.lr, changed.layers) == (16, 1e-3, ("mamba",))
    assert config.graph.k_max != 16
    with pytest.raises(Exception, match="frozen"):
        config.graph.k_max = 3  # type: ignore[misc]


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(
        'preset = "phase2"\nd_model = 64\n[attention]\nn_heads = 2\n[graph]\nwindow = 3\n'
    )
    config = SOSMConfig.from_file(path)
    assert (config.d_model, config.graph.window, config.pointer.enabled) == (64, 3, False)
    (tmp_path / "same.json").write_text(json.dumps(config.to_dict()))
    assert SOSMConfig.from_file(tmp_path / "same.json") == config
    path.write_text("d_model = [")
    with pytest.raises(ConfigError, match=r"small\.toml"):
        SOSMConfig.from_file(path)
    with pytest.raises(ConfigError, match=r"none\.toml"):
        SOSMConfig.from_file(tmp_path / "none.toml")


def test_block_tables_are_the_researchers_own() -> None:
    config = SOSMConfig.preset("default").override({"graph.block_weights.S": 0.2})
    assert config.graph.block_weights["S"] == 0.2
    with pytest.raises(ConfigError, match="no block 'Q'"):
        config.override({"graph.block_weights.Q": 0.2})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"graph.kmax": 1}, "k_max"),
        ({"grap.k_max": 1}, "graph"),
        ({"graph.k_max": 1}, "k_min ≤ k_base ≤ k_max"),
        ({"train.lr": "fast"}, "train.lr"),
        ({"train.steps": -1}, "train.steps"),
        ({"layers": []}, "at least one"),
        ({"graph.enabled": False}, "graph.enabled is false"),
        ({"d_model": 102}, "multiple of attention.n_heads"),
        ({"state.half_lives": {"K": 3}}, "half_lives"),
    ],
)
def test_errors_say_what_is_wrong(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SOSMConfig.preset("default").override(values)


def test_overrides_from_the_command_line() -> None:
    parsed = parse_overrides(
        ["graph.k_max=8", "data.source=kjv", "layers=['mamba']", "train.lr=1e-3"]
    )
    assert parsed == {"graph.k_max": 8, "data.source": "kjv", "layers": ["mamba"], "train.lr": 1e-3}
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        parse_overrides(["graph.k_max"])
