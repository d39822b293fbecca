"""Curves begin and end where they must, and a method that knows beats one that does not."""

from __future__ import annotations

import pytest
import torch

from state_core.analysis.faithfulness import _probabilities, at_random, by_attribution, faithfulness
from state_core.errors import InputError
from tests.invariants.variants import build, text

POSITIONS = [20, 27, 33]


@pytest.mark.parametrize("name", ["as recommended", "phase6", "no pointer"])
def test_curves_run_from_the_whole_row_to_none(name: str) -> None:
    model, ids = build(name), text(1, 40)
    for curve in faithfulness(model, ids, POSITIONS):
        assert curve.deletion[0] == pytest.approx(1, abs=1e-4)
        assert curve.insertion[-1] == pytest.approx(1, abs=1e-4)
        assert curve.deletion[-1] == pytest.approx(float(curve.insertion[0]), abs=1e-5)
        assert curve.each_deletion.shape == (3,)


def test_an_oracle_beats_chance_and_its_opposite_loses() -> None:
    """Each edge scored by what p loses without it."""
    model, ids = build("as recommended"), text(1, 40)

    def oracle(model, ids, position, token):
        count = len(by_attribution(model, ids, position, token))
        keep = ~torch.eye(count, dtype=torch.bool)
        return -_probabilities(model, ids, position, token, keep)

    def fool(model, ids, position, token):
        return -oracle(model, ids, position, token)

    best, chance, worst = faithfulness(
        model, ids, POSITIONS, {"oracle": oracle, "random": at_random(0), "fool": fool}
    )
    assert best.deletion_area < chance.deletion_area < worst.deletion_area
    assert best.fid_plus > worst.fid_plus


def test_one_text_with_positions_and_a_graph_are_needed() -> None:
    model = build("as recommended")
    for ids, positions in ((text(2, 20), [3]), (text(1, 20), [])):
        with pytest.raises(InputError, match="one text"):
            faithfulness(model, ids, positions)
    with pytest.raises(InputError, match="graph"):
        faithfulness(build("mixer attention, no graph"), text(1, 20), [3])
