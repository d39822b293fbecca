"""Routing against the formulae of the papers, written out as loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from state_core import SOSM, SOSMConfig
from state_core.config import CAUSAL_ROUTING
from state_core.encoder import encoder_config
from state_core.errors import ConfigError
from state_core.layers.experts import Experts
from state_core.layers.moe import ROUTERS, Routing, capacity
from tests.invariants.variants import SMALL, build, text

SIZES = {"moe.n_experts": 4, "moe.per_token": 2, "moe.hidden": 12, "moe.slots": 3}


def router(routing: str, **values: object) -> nn.Module:
    base = SOSMConfig.preset("default")
    base = encoder_config(base) if routing in CAUSAL_ROUTING else base
    config = base.override({**SMALL, **SIZES, "moe.routing": routing, **values})
    torch.manual_seed(0)
    return ROUTERS[routing](config).double()


def inputs(batch: int = 3, length: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, length, 32, generator=generator, dtype=torch.float64)


def expert(experts: Experts, e: int, x: Tensor) -> Tensor:
    gate, up = (x @ experts.gate_up[e].T).chunk(2, dim=-1)
    return (F.silu(gate) * up) @ experts.down[e].T


@torch.no_grad()
def test_token_choice_token_by_token() -> None:
    layer, x = router("token_choice"), inputs()
    got, routing = layer(x)
    for b in range(3):
        for t in range(20):
            p = (layer.score.weight @ x[b, t]).softmax(0)
            two = p.argsort(descending=True)[:2].tolist()
            share = {e: p[e] / p[two].sum() for e in two}
            want = sum(share[e] * expert(layer.experts, e, x[b, t]) for e in two)
            torch.testing.assert_close(got[b, t], want)
            assert routing.gates[b, t].nonzero()[:, 0].tolist() == sorted(two)
    assert routing.usage.sum() == pytest.approx(1)


@torch.no_grad()
def test_the_balancing_loss_is_that_of_switch_transformers() -> None:
    """α·E·Σ f_e·P_e: α where load and probability are even, more where they have favourites."""
    layer, x = router("token_choice", **{"moe.balance": 0.5}), inputs()
    _, routing = layer(x)
    p = (x @ layer.score.weight.T).softmax(-1).flatten(0, 1)
    f = torch.stack([(p.topk(2).indices == e).any(1).double().mean() / 2 for e in range(4)])
    assert float(routing.aux_loss) == pytest.approx(float(0.5 * 4 * (f * p.mean(0)).sum()))
    layer.score.weight.zero_()
    assert float(layer(x)[1].aux_loss) == pytest.approx(0.5)
    layer.score.weight[0] = 3 * x.mean((0, 1))
    assert float(layer(x)[1].aux_loss) > 0.5


@torch.no_grad()
def test_expert_choice_is_the_papers() -> None:
    """Section 3.2 of arXiv 2202.09368: S = softmax(X W_g), G, I = TopK(Sᵀ, k), k = n·c/e."""
    layer, x = router("expert_choice"), inputs()
    got, routing = layer(x)
    for b in range(3):
        scores = (x[b] @ layer.score.weight.T).softmax(1).T  # [e, n]
        k = 20 * 2 // 4
        want = torch.zeros_like(x[b])
        for e in range(4):
            chosen = scores[e].argsort(descending=True)[:k]
            for n in chosen.tolist():
                want[n] += scores[e, n] * expert(layer.experts, e, x[b, n])
        torch.testing.assert_close(got[b], want)
    assert routing.imbalance == pytest.approx(1.0, abs=1e-12)
    assert (routing.gates > 0).sum(1).unique().tolist() == [10]


@torch.no_grad()
def test_soft_moe_is_the_papers() -> None:
    """Section 2.1 of arXiv 2308.00951 with the normalisation of section 2.3, slot by slot."""
    layer, x = router("soft"), inputs()
    layer.scale.fill_(3.0)
    got, routing = layer(x)
    phi = layer.slots.flatten(1)
    phi = 3.0 * phi / phi.norm(dim=0)
    for b in range(3):
        logits = (x[b] / x[b].norm(dim=1, keepdim=True)) @ phi
        dispatch = logits.exp() / logits.exp().sum(0)
        combine = logits.exp() / logits.exp().sum(1, keepdim=True)
        outputs = [
            expert(layer.experts, s // 3, (dispatch[:, s, None] * x[b]).sum(0)) for s in range(12)
        ]
        want = torch.stack([sum(c * y for c, y in zip(row, outputs)) for row in combine])
        torch.testing.assert_close(got[b], want)
    torch.testing.assert_close(routing.gates.sum(-1), torch.ones(3, 20, dtype=torch.float64))


@torch.no_grad()
def test_a_threshold_routes_each_token_by_itself() -> None:
    layer, x = router("expert_threshold").eval(), inputs()
    layer.threshold.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    whole, _ = layer(x)
    for b, t in ((0, 0), (1, 7), (2, 19)):
        alone, routing = layer(x[b : b + 1, t : t + 1])
        torch.testing.assert_close(alone[0, 0], whole[b, t])
        p = (layer.score.weight @ x[b, t]).softmax(0)
        taken = [e for e in range(4) if p[e] > layer.threshold[e]]
        assert routing.gates[0, 0].nonzero()[:, 0].tolist() == taken
        want = sum((p[e] * expert(layer.experts, e, x[b, t]) for e in taken), torch.zeros(32))
        torch.testing.assert_close(alone[0, 0], want.double())


@torch.no_grad()
def test_thresholds_come_to_balance_the_experts() -> None:
    layer = router("expert_threshold").train()
    layer.score.weight[0] += 1.0  # one expert would be everyone's favourite
    generator = torch.Generator().manual_seed(2)
    batch = [torch.randn(8, 64, 32, generator=generator).double() + 0.3 for _ in range(40)]
    loads = []
    for x in batch:
        layer.begin_batch()
        loads.append((layer(x)[1].gates > 0).double().mean((0, 1)))
    assert loads[0].max() > 0.9
    assert torch.stack(loads[20:]).mean(0).tolist() == pytest.approx([0.5] * 4, abs=0.02)


@torch.no_grad()
def test_a_batch_is_routed_by_the_batches_before_it() -> None:
    layer, x = router("expert_threshold").train(), inputs()
    first = layer.threshold.clone()
    again = [layer(x)[0] for _ in range(2)]
    assert torch.equal(*again)  # as when a checkpointed layer is recomputed
    assert torch.equal(layer.threshold, first)
    layer.begin_batch()
    p = (x @ layer.score.weight.T).softmax(-1).flatten(0, 1)
    torch.testing.assert_close(layer.threshold, p.sort(0, descending=True).values[29])
    layer.begin_batch()
    assert layer.batches == 1


@pytest.mark.parametrize("routing", list(ROUTERS))
def test_gradients_reach_experts_and_scores(routing: str) -> None:
    layer, x = router(routing), inputs().requires_grad_()
    y, routed = layer(x)
    (y.square().sum() + routed.aux_loss).backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


@pytest.mark.parametrize("routing", list(ROUTERS))
def test_no_expert_and_no_token_left(routing: str) -> None:
    layer = router(routing).eval()
    one, _ = layer(inputs(1, 1))
    assert one.isfinite().all()
    if routing == "expert_threshold":
        with torch.no_grad():
            layer.threshold.fill_(1.0)
        y, routed = layer(inputs())
        assert (y == 0).all()
        assert routed.usage.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("routing", "counterpart"), [("soft", "token_choice"), ("expert_choice", "expert_threshold")]
)
def test_a_language_model_refuses_what_looks_ahead(routing: str, counterpart: str) -> None:
    with pytest.raises(ConfigError, match=counterpart):
        SOSMConfig.preset("default").override({"moe.routing": routing})


def test_capacity() -> None:
    assert [capacity(n, 2, 8) for n in (1, 4, 64, 100)] == [1, 1, 16, 25]
    assert capacity(3, 4, 4) == 3
    with pytest.raises(ConfigError, match="n_experts"):
        SOSMConfig.preset("default").override({"moe.per_token": 9})


def test_the_model_reports_what_it_routed() -> None:
    model, ids = build("token choice"), text(2, 30)
    out = model(ids, labels=ids)
    assert len(out.routing) == 1  # from_layer leaves the first one as it was
    assert model.blocks[0].mlp is not None
    assert out.routing[0].gates.shape == (2, 30, 4)
    assert torch.equal(out.aux_loss, out.routing[0].aux_loss)
    plain = build("as recommended")(ids)
    assert plain.aux_loss is None
    assert plain.routing == ()


def test_imbalance() -> None:
    gates = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.9, 0.0, 0.1, 0.0]]])
    routing = Routing(gates, torch.zeros(()))
    assert routing.usage.tolist() == [0.5, 0.25, 0.25, 0.0]
    assert routing.imbalance == 2.0


def test_thresholds_survive_recomputation_and_resume() -> None:
    """With activation checkpointing the same steps, to the bit, as without."""
    config = build("expert threshold").config
    states = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = SOSM(config.override({"train.activation_checkpointing": recompute})).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            ids = text(2, 30, seed=step)
            model(ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        states.append(model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, equal_nan=True, rtol=0, atol=0)
