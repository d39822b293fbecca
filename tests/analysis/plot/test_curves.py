"""Curves of training and of faithfulness."""

from __future__ import annotations

import pytest

from state_core.analysis import plot
from state_core.analysis.faithfulness import faithfulness
from state_core.errors import InputError
from tests.invariants.variants import build, text


def test_loss(tmp_path):
    records = [{"kind": "train", "step": n, "loss": 9 - n / 10} for n in range(50)]
    figure = plot.loss({"a": records, "b": records})
    assert [t.name for t in figure.data if t.name] == ["a", "b"]
    with pytest.raises(InputError, match="no record"):
        plot.loss({"empty": tmp_path})


def test_curves_are_drawn_once_for_each_side() -> None:
    told: list[tuple[int, int]] = []
    model, ids = build("as recommended"), text(1, 40)
    curves = faithfulness(model, ids, [20, 30], progress=lambda *n: told.append(n))
    predictions = 2 * len(curves)
    assert told == [(n, predictions) for n in range(predictions)]
    figure = plot.faithfulness(curves)
    assert [t.name for t in figure.data if t.showlegend] == [
        f"{c.method}, areas {c.deletion_area:.2f} and {c.insertion_area:.2f}" for c in curves
    ]
    assert len(figure.data) == 2 * len(curves)
    assert list(figure.data[0].y) == pytest.approx(curves[0].deletion.tolist())
