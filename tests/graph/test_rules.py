"""Edge rules added by name: what they choose becomes edges, and what is wrong is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from state_core import SOSM, EdgeKind, SOSMConfig, audit_causality
from state_core.errors import ConfigError, InputError
from state_core.graph import rules
from state_core.graph.graph_stream import Known
from tests.invariants.variants import SMALL, text

Register = Callable[[str, rules.Rule], SOSM]


def squares(known: Known, _config: object) -> Tensor:
    """1, 4, 9 … tokens back."""
    return known.positions[..., None] - torch.arange(1, 6) ** 2


@pytest.fixture
def model_with(monkeypatch: pytest.MonkeyPatch) -> Register:
    monkeypatch.setattr(rules, "_RULES", {})

    def build(name: str, rule: rules.Rule) -> SOSM:
        rules.register_rule(name, rule)
        torch.manual_seed(0)
        change = {**SMALL, "graph.rule": name, "layers": ("mamba", "graph_attention")}
        return SOSM(SOSMConfig.preset("default").override(change)).eval()

    return build


def test_what_a_rule_chooses_is_an_edge(model_with: Register):
    model = model_with("squares", squares)
    graph = model(text(2, 50), return_graph=True).graph
    edge = graph.explain(1, 40, 40 - 25)
    assert edge.kind in (EdgeKind.RULE, EdgeKind.SEMANTIC)
    ruled = graph.subgraph(kinds=[EdgeKind.RULE])
    back = (ruled.edge_index[0] - ruled.edge_index[1]).unique().tolist()
    assert set(back) <= {4, 9, 16, 25}  # 1 is in the window
    assert len(back) > 1
    assert any("rule" in graph.explain(0, 40, j).reason for j in ruled.rows(0, 40).neighbors)


def test_no_token_is_looked_at_twice(model_with: Register):
    model = model_with("three times", lambda known, _: squares(known, _).repeat(1, 1, 3))
    graph = model(text(1, 60), return_graph=True).graph
    for i in range(60):
        row = graph.rows(0, i).neighbors.tolist()
        assert len(row) == len(set(row))


def test_what_is_ahead_is_no_edge(model_with: Register):
    model = model_with("ahead", lambda known, _: known.positions[..., None] + torch.arange(3))
    graph = model(text(1, 30), return_graph=True).graph
    assert (graph.kinds[graph.neighbors >= 0] != EdgeKind.RULE).all()


def test_the_audit_finds_a_rule_that_peeks_in_choosing(model_with: Register):
    def peeks(known: Known, _config: object) -> Tensor:
        last = known.semantic[:, -1, 0, 0]  # what the newest token is decides on all rows
        back = torch.where(last > 0, 10, 13)[:, None, None]
        return known.positions[..., None] - back

    report = audit_causality(model_with("peeks", peeks), length=41)
    assert not report.passed


@pytest.mark.parametrize(
    "targets", [torch.zeros(1, 9, 2), torch.zeros(1, 9, dtype=torch.int64)], ids=["floats", "flat"]
)
def test_targets_of_another_kind_are_refused(model_with: Register, targets: Tensor):
    model = model_with("wrong", lambda known, _: targets)
    with pytest.raises(InputError, match="must give integers of shape"):
        model(text(1, 9))


def test_a_rule_nobody_registered(model_with: Register):
    model_with("squares", squares)
    with pytest.raises(ConfigError, match="squares"):
        SOSMConfig.preset("default").override({"graph.rule": "square"})
    with pytest.raises(ConfigError, match="already"):
        rules.register_rule("squares", squares)


OWN = """
import torch
from torch import nn
from state_core.graph.rules import register_rule
from state_core.layers.registry import register_mixer

class Own(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x, view, state):
        before = x.new_zeros(len(x), x.shape[-1]) if state is None else state
        seen = before[:, None] + {sum}
        return self.out(seen.tanh()), seen[:, -1]

register_mixer("own", Own, needs_graph=False)
register_rule("own", lambda known, _: known.positions[..., None] - torch.tensor([12, 20]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("sum", "leaks"), [("x.cumsum(1)", False), ("x.flip(1).cumsum(1)", True)])
def test_what_is_registered_elsewhere_joins_the_invariant_tests(
    tmp_path: Path, sum: str, leaks: bool
):
    (tmp_path / "own_parts.py").write_text(OWN.replace("{sum}", sum))
    tests = "tests/invariants/test_i1_causal.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "own_parts", "-k", "own", tests]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert ("mixer own" in done.stdout) == leaks, done.stdout
    assert ("3 passed" in done.stdout) != leaks, done.stdout
