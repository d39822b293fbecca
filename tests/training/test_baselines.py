from __future__ import annotations

import pytest

from state_core import SOSM, SOSMConfig
from state_core.errors import ConfigError
from state_core.training.baselines import (
    Baseline,
    count_parameters,
    matched_baseline,
    widened,
)


@pytest.mark.parametrize("kind", ["transformer", "mamba2"])
@pytest.mark.parametrize(
    "values", [{}, {"d_model": 96, "mlp_hidden": 0}, {"vocab_size": 512, "layers": ["mamba"] * 6}]
)
def test_a_baseline_has_as_many_parameters(kind: Baseline, values: dict[str, object]) -> None:
    config = SOSMConfig.preset("default").override({**values, "train.lr": 1e-3})
    baseline = matched_baseline(config, kind)
    ours = count_parameters(config)
    assert abs(SOSM(baseline).num_parameters() - ours) <= 0.02 * ours
    assert set(baseline.layers) == {"attention" if kind == "transformer" else "mamba"}
    assert not baseline.graph.enabled
    assert not baseline.pointer.enabled
    assert baseline.train == config.train
    assert baseline.data == config.data
    same = ("vocab_size", "d_model", "embed_rank")
    assert [getattr(baseline, k) for k in same] == [getattr(config, k) for k in same]


def test_the_default_keeps_its_depth() -> None:
    config = SOSMConfig.preset("default")
    for kind in ("transformer", "mamba2"):
        baseline = matched_baseline(config, kind)  # type: ignore[arg-type]
        assert config.d_model <= baseline.mlp_hidden <= 4 * config.d_model
        assert abs(len(baseline.layers) - len(config.layers)) <= 1


def test_a_widened_configuration_differs_in_its_width_alone() -> None:
    config = SOSMConfig.preset("phase2")
    wide = widened(config, 1_632_000)
    assert abs(count_parameters(wide) - 1_632_000) <= 0.02 * 1_632_000
    assert wide == config.override({"mlp_hidden": wide.mlp_hidden})
    with pytest.raises(ConfigError, match="no width of the MLPs gives 1,000 parameters"):
        widened(config, 1_000)


def test_counting_is_that_of_the_model() -> None:
    config = SOSMConfig.preset("phase2", vocab_size=64)
    assert count_parameters(config) == SOSM(config).num_parameters()


def test_impossible_and_unknown_baselines() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mamba2'"):
        matched_baseline(SOSMConfig.preset("default"), "mamba")  # type: ignore[arg-type]
    tiny = SOSMConfig.preset("mamba2", vocab_size=4).override(
        {
            "layers": ["attention"],
            "d_model": 4,
            "mlp_hidden": 0,
            "embed_rank": 1,
            "attention.n_heads": 1,
            "mamba.headdim": 4,
        }
    )
    with pytest.raises(ConfigError, match="no mamba2 of d_model 4"):
        matched_baseline(tiny, "mamba2")
