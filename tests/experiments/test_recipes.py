"""The recipes of phases 1 and 2: arms of equal size, and what single measurements rest on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from experiments import phase1, phase2, recipe
from state_core import ops
from state_core.analysis.attribution import Part
from state_core.training.baselines import count_parameters

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("phase", [phase1, phase2])
def test_arms_are_of_equal_size(phase: ModuleType):
    sizes = {name: count_parameters(config) for name, config in phase.arms().items()}
    peer = sizes["baseline"]
    assert all(abs(size - peer) <= 0.02 * peer for size in sizes.values()), sizes


@pytest.mark.parametrize("phase", [phase1, phase2])
def test_an_arm_changes_what_it_is_named_for(phase: ModuleType):
    trees = [json.dumps(config.to_dict()) for config in phase.arms().values()]
    assert len(set(trees)) == len(trees)


@pytest.mark.parametrize("length", [1, 2, 63, 65])
def test_the_full_matrix_finds_the_same_neighbours(length: int):
    u = phase1.unit_rows(length).double()
    ours, _ = ops.causal_topk(u[None], 8)
    theirs = phase1.full_matrix(u, 8)
    assert ours[0, :, : theirs.shape[1]].tolist() == theirs.tolist()


def test_a_cut_baseline_has_the_baselines_width():
    six, four = phase1.cut(6), phase1.cut(4)
    assert six == phase1.arms()["baseline"]
    assert four.mlp_hidden == six.mlp_hidden
    assert len(four.layers) == 4


def test_a_gap_is_found_at_any_level():
    whole = Part("p", 1.0, (Part("a", 0.6, (Part("b", 0.5), Part("c", 0.1))), Part("d", 0.4)))
    assert phase2.difference(whole) == pytest.approx(0)
    broken = Part("p", 1.0, (Part("a", 0.6, (Part("b", 0.5),)), Part("d", 0.4)))
    assert phase2.difference(broken) == pytest.approx(0.1)
    assert phase2.difference(Part("p", 0.9)) == pytest.approx(0.1)


def test_the_table_compares_with_the_baseline_of_the_same_seed():
    def result(arm: str, seed: int, loss: float) -> dict[str, object]:
        scores = {kind: {"loss": loss} for kind in ("overall", "recall")}
        return {"arm": arm, "seed": seed, "parameters": 7, "test": scores, "seconds": 1.0 + seed}

    losses = {("baseline", 0): 2.0, ("new", 0): 1.9, ("baseline", 1): 3.0, ("new", 1): 2.9}
    found = [result(arm, seed, loss) for (arm, seed), loss in losses.items()]
    console = Console(width=200)
    with console.capture() as shown:
        console.print(recipe.table(found))
    assert "0.9048 ± 0.0000" in shown.get()


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["phase1", "phase2"])
def test_the_command_runs(phase: str, tmp_path: Path):
    sizes = ["--steps", "2", "--seeds", "1", "--set", "train.batch_size=1", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{phase}", "--arms", phase, *sizes],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "baseline" in done.stdout
    found = json.loads((tmp_path / "results.json").read_text())["arms"]
    assert [r["arm"] for r in found] == ["baseline", phase]
