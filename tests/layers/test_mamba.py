"""The Mamba-2 layer: states, causality, and weights that interchange with other packages."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from state_core import SOSM, TokenGraph
from state_core.config import GraphConfig
from state_core.errors import ConfigError, InputError
from state_core.layers.mamba import Mamba2, Mamba2State
from state_core.layers.step import step_features, step_width
from tests.invariants.variants import build
from tests.invariants.variants import text as ids_of


def layer(dtype: torch.dtype = torch.float64, ngroups: int = 1) -> Mamba2:
    torch.manual_seed(0)
    made = Mamba2(12, d_state=6, headdim=4, expand=2, ngroups=ngroups, chunk_size=16)
    return made.to(dtype)


def text(length: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, length, 12, dtype=dtype, generator=torch.Generator().manual_seed(1))


def error(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max().detach() / want.abs().max().detach())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize("pieces", [[1] * 37, [16, 21], [1, 15, 17, 2, 2]])
@torch.no_grad()
def test_one_shot_equals_pieces(dtype: torch.dtype, tolerance: float, pieces: list[int]) -> None:
    mamba, x = layer(dtype, ngroups=2), text(37, dtype)
    want, last = mamba(x)
    state: Mamba2State | None = None
    parts = []
    for piece in x.split(pieces, dim=1):
        y, state = mamba(piece, state)
        parts.append(y)
    assert state is not None
    assert error(torch.cat(parts, 1), want) < tolerance
    assert error(state.ssm, last.ssm) < tolerance
    assert error(state.conv, last.conv) < tolerance


@torch.no_grad()
def test_a_token_changes_nothing_before_it() -> None:
    mamba, x = layer(torch.float32), text(70, torch.float32)
    want, _ = mamba(x)
    for t in (0, 1, 15, 16, 17, 33, 69):
        changed = x.clone()
        changed[:, t:] = torch.nan
        assert torch.equal(mamba(changed)[0][:, :t], want[:, :t])


@torch.no_grad()
def test_rows_do_not_see_each_other() -> None:
    mamba, x = layer(torch.float32), text(40, torch.float32)
    assert error(mamba(x[1:])[0], mamba(x)[0][1:]) < 1e-6


def test_every_parameter_learns_through_the_state_too() -> None:
    mamba = layer()
    x = text(20).requires_grad_()
    _, state = mamba(x[:, :17])
    mamba(x[:, 17:], state)[0].square().sum().backward()
    assert x.grad is not None
    assert (x.grad[:, :17].abs().amax((0, 2)) > 0).all()
    for name, parameter in mamba.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_initial_steps_are_log_uniform_in_their_range() -> None:
    dt = torch.nn.functional.softplus(Mamba2(512, headdim=8).dt_bias)
    assert dt.min() >= 1e-3 * 0.999
    assert dt.max() <= 0.1 * 1.001
    assert 0.3 < (dt < 0.01).float().mean() < 0.7


def test_weights_of_transformers_load_and_give_its_outputs() -> None:
    modeling = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    config = modeling.Mamba2Config(
        hidden_size=24, num_heads=6, head_dim=8, state_size=10, n_groups=2, expand=2, chunk_size=16
    )
    torch.manual_seed(0)
    theirs = modeling.Mamba2Mixer(config, layer_idx=0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ours = Mamba2(24, d_state=10, headdim=8, ngroups=2, chunk_size=16)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 37, 24)
    want = theirs.eval()(x)
    got, _ = ours(x)
    assert error(got, want) < 1e-5


def test_parameters_are_those_of_mamba_ssm() -> None:
    shapes = {n: tuple(p.shape) for n, p in Mamba2(16, d_state=5, headdim=8).named_parameters()}
    assert shapes == {
        "dt_bias": (4,),
        "A_log": (4,),
        "D": (4,),
        "in_proj.weight": (32 + 32 + 10 + 4, 16),
        "conv1d.weight": (42, 1, 4),
        "conv1d.bias": (42,),
        "norm.weight": (32,),
        "out_proj.weight": (16, 32),
    }


def test_bfloat16_autocast_stays_close() -> None:
    mamba, x = layer(torch.float32), text(40, torch.float32)
    want, _ = mamba(x)
    with torch.autocast("cpu", torch.bfloat16):
        got, _ = mamba(x)
    assert error(got.float(), want) < 0.05


def test_compiled_layer_gives_the_same() -> None:
    mamba, x = layer(torch.float32), text(20, torch.float32)
    want, _ = mamba(x)  # the first call chooses the backends
    got, _ = torch.compile(mamba, backend="aot_eager", fullgraph=True)(x)
    assert error(got, want) < 1e-6


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="headdim"):
        Mamba2(10, headdim=64)
    with pytest.raises(ConfigError, match="ngroups"):
        Mamba2(12, headdim=8, ngroups=2)
    with pytest.raises(InputError, match="12"):
        layer()(torch.zeros(2, 5, 11, dtype=torch.float64))
    with pytest.raises(InputError, match="T >= 1"):
        layer()(torch.zeros(2, 0, 12, dtype=torch.float64))


TOPOLOGICAL = {"mamba.topological": True, "layers": ["mamba"]}


def test_the_graph_says_how_far_a_step_resets() -> None:
    """With U large on the similarity of neighbours, a token unlike the one before it resets."""
    config = build("as recommended").config.override({**TOPOLOGICAL, "pointer.enabled": False})
    torch.manual_seed(0)
    model = SOSM(config).eval()
    mixer, ids = model.blocks[0].mixer, ids_of(1, 30)
    with torch.no_grad():
        plain = model(ids).logits
        torch.testing.assert_close(plain, _without_topology(model)(ids).logits, rtol=0, atol=0)
        mixer.step.weight[:, 0] = -1.0
        assert not torch.allclose(model(ids).logits, plain)


def _without_topology(model: SOSM) -> SOSM:
    plain = SOSM(model.config.override({"mamba.topological": False})).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    return plain


def test_its_steps_learn_although_they_start_silent() -> None:
    torch.manual_seed(0)
    model = SOSM(build("as recommended").config.override(TOPOLOGICAL))
    ids = ids_of(2, 40)
    model(ids, labels=ids).loss.backward()
    gradient = model.blocks[0].mixer.step.weight.grad
    assert gradient is not None
    assert (gradient.abs().amax(0) > 0).all()


def test_a_step_by_landmarks() -> None:
    graph = TokenGraph(
        neighbors=torch.tensor([[[0, -1, -1], [1, 0, -1], [2, 1, 0]]], dtype=torch.int32),
        counts=torch.tensor([[1, 2, 3]], dtype=torch.int32),
        kinds=torch.tensor([[[0, 0, 0], [0, 0, 0], [0, 0, 1]]], dtype=torch.int8),
        weights=torch.tensor([[[1.0, 0, 0], [1.0, 0.5, 0], [1.0, -0.25, 0.75]]]),
        positions=torch.arange(3)[None],
        semantic=torch.zeros(1, 3, 16, 4),
        layout=(),
        similarity=None,
        coordinates=torch.tensor([[[-1, 2], [3, -1], [4, 6]]], dtype=torch.int32),
    )
    got = step_features(graph)[0]
    # similarity to the predecessor, best semantic edge, degree, distance bounds, proximities
    log2 = math.log(2)
    want = [
        [0, 0, 0, 0, 0, 0, 1 / 3],
        [0.5, 0, 0, 0, 0, 1 / 4, 0],
        [-0.25, 0.75, log2, log2, 1 / 8, 1 / 5, 1 / 7],
    ]
    torch.testing.assert_close(got, torch.tensor(want))
    config = GraphConfig(landmarks=2)
    assert step_width(config) == got.shape[1]
    assert step_width(GraphConfig()) == step_features(replace(graph, coordinates=None)).shape[2]
