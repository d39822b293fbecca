"""The ledger: rows are checked, verdicts follow their bounds, and every promise has its row."""

from __future__ import annotations

import itertools
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import ledger
from experiments.ledger import (
    BUDGETS,
    Bounds,
    Claim,
    Estimate,
    Quantity,
    Setting,
    Verdict,
    load_claims,
    overall,
    select,
)
from state_core.errors import ConfigError, SOSMError

CLAIMS = load_claims()
# What the seeds promised of the phases that are built: no row may get lost.
PROMISED = {
    1: "1 1m 1p 1.1m 1.1s 1.1e 1.2e 1.2h 1.3 1.4c 1.4m 1.5s 1.5m",
    2: "2a 2g 2p 2.1 2.2k 2.2s 2.3 2.4s 2.4q 2.5",
    3: "3s 3m 3t 3p 3.1 3.2 3.3m 3.3s 3.4 3.5n 3.5q",
    4: "4i 4m 4.1 4.2 4.3 4.4m 4.4s 4.5",
    6: "6s 6a 6t 6.1s 6.1r 6.2d 6.2n 6.2t 6.3 6.4 6.5b 6.5q 6.6 6.7",
}
BAD = {
    "claim": ("[[claim]]\nid = 'x'\n", "claim x: phase: Field required"),
    "unknown key": ("[[claim]]\nid = 'x'\ncolour = 1\n", "colour: Extra inputs"),
    "nameless": ("[[claim]]\nphase = 1\n", "claim number 1: id: Field required"),
    "toml": ("[[claim]\n", "cannot read the claims"),
}

values = st.floats(-1e6, 1e6)


def row(**changes: Any) -> dict[str, Any]:
    """A row as TOML gives it."""
    quantity = {"name": "q", "expected": "≥ 1", "reproduced": {"min": 1.0}}
    return {
        "id": "x-1",
        "phase": 1,
        "item": "An item",
        "claim": "as promised",
        "metric": "ratio",
        "measure": "experiments.phase1:total_speed",
        "quantity": [quantity],
        **changes,
    }


def quantity(**bounds: Any) -> Quantity:
    return Quantity(name="q", expected="", **bounds)


def setting(tmp_path: Path, budget: str = "quick") -> Setting:
    return Setting.of(budget, tmp_path, 1)


@pytest.mark.parametrize("phase", PROMISED)
def test_every_promise_has_its_row(phase: int):
    found = [c.id for c in CLAIMS.values() if c.phase == phase]
    assert sorted(found) == sorted(f"sosm-{name}" for name in PROMISED[phase].split())


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_every_row_has_its_measurement(claim: Claim):
    assert claim.function().__module__ == claim.measure.split(":")[0]


def test_rows_that_take_times_are_alone():
    """Whatever runs beside them would be in the times."""
    timed = ("speedup(", "time_ratio(", "_similarity_speedup(", "interleave(", "_growth(")
    for claim in CLAIMS.values():
        text = ledger._source(claim.measure)
        assert claim.alone == any(call in text for call in timed), claim.id


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named(name: str, tmp_path: Path):
    text, said = BAD[name]
    (tmp_path / "claims.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_claims(tmp_path / "claims.toml")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantity": [{"name": "q", "expected": ""}]}, "at least one quantity needs bounds"),
        ({"quantity": [row()["quantity"][0]] * 2}, "same name"),
        ({"measure": "nothing"}, "measure"),
        ({"needs": "luck"}, "needs"),
    ],
)
def test_a_row_must_be_sound(changes: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        Claim.model_validate(row(**changes))


def test_a_repeated_id_is_refused(tmp_path: Path):
    text = (Path(__file__).parents[2] / "experiments" / "claims.toml").read_text()
    (tmp_path / "claims.toml").write_text(text + text)
    with pytest.raises(ConfigError, match="two claims have the id 'sosm-1'"):
        load_claims(tmp_path / "claims.toml")


def test_claims_are_selected_by_id_and_pattern():
    assert [c.id for c in select(CLAIMS, ["sosm-1"])] == ["sosm-1"]
    assert [c.id for c in select(CLAIMS, ["sosm-1.1?"])] == ["sosm-1.1m", "sosm-1.1s", "sosm-1.1e"]
    assert len(select(CLAIMS, [])) == len(CLAIMS)
    with pytest.raises(ConfigError, match=r"sosm-1.9.*did you mean"):
        select(CLAIMS, ["sosm-1.9"])


@given(st.floats(-10, 10), st.floats(0, 5), st.floats(0, 5), values)
def test_reproduced_is_partly_and_more(low: float, width: float, slack: float, value: float):
    strict = Bounds(min=low, max=low + width)
    loose = Bounds(min=low - slack, max=low + width + slack)
    verdict = quantity(reproduced=strict, partly=loose).judge(value)
    assert (verdict is Verdict.REPRODUCED) == (low <= value <= low + width)
    assert (verdict is Verdict.REFUTED) == (not loose.hold(value))


@given(values)
def test_without_bounds_nothing_is_judged(value: float):
    assert quantity().judge(value) is Verdict.REPORTED


def test_partly_must_be_looser():
    with pytest.raises(ValueError, match="must hold those of reproduced"):
        quantity(reproduced=Bounds(min=1), partly=Bounds(min=2))
    with pytest.raises(ValueError, match="min ≤ max"):
        Bounds(min=2, max=1)
    with pytest.raises(ValueError, match="need min or max"):
        Bounds()


@given(st.lists(values, min_size=2, max_size=6))
def test_the_interval_is_students(found: list[float]):
    from scipy.stats import t

    estimate = Estimate(quantity(reproduced=Bounds(min=0)), tuple(found))
    low, high = estimate.interval
    n, spread = len(found), statistics.stdev(found)
    assert (low + high) / 2 == pytest.approx(estimate.mean, abs=1e-6 * (1 + spread))
    half = t.ppf(0.975, n - 1) * spread / math.sqrt(n)
    assert (high - low) / 2 == pytest.approx(half, rel=1e-6, abs=1e-6)
    if low > 0 or high < 0:
        assert not estimate.straddles
    if low < 0 < high:
        assert estimate.straddles


def test_one_value_has_no_interval():
    estimate = Estimate(quantity(reproduced=Bounds(min=1)), (1.0,))
    assert estimate.interval is None
    assert not estimate.straddles
    assert estimate.verdict is Verdict.REPRODUCED


@given(st.lists(st.sampled_from([0.0, 2.0, 5.0]), min_size=1, max_size=4))
def test_a_claim_is_what_its_quantities_agree_on(means: list[float]):
    judged = quantity(reproduced=Bounds(min=4), partly=Bounds(min=1))
    said = quantity()
    verdicts = {judged.judge(mean) for mean in means}
    found = overall([Estimate(judged, (mean,)) for mean in means] + [Estimate(said, (0.0,))])
    assert found == (verdicts.pop() if len(verdicts) == 1 else Verdict.PARTLY)


def test_what_is_measured_must_be_what_the_row_asks_for():
    claim = Claim.model_validate(row())
    claim.check({"q": [1.0, 2.0]})
    for wrong in ({}, {"p": [1.0]}, {"q": []}, {"q": [math.nan]}, {"q": [math.inf]}):
        with pytest.raises(SOSMError, match=r"q"):
            claim.check(wrong)


def test_a_digest_follows_what_a_result_depends_on(tmp_path: Path):
    base = Claim.model_validate(row())
    spends = setting(tmp_path)
    digest = base.digest(spends)
    assert digest == base.digest(Setting.of("quick", tmp_path / "elsewhere", 4))
    assert digest == Claim.model_validate(row(story="Told later.")).digest(spends)
    assert digest != base.digest(setting(tmp_path, "standard"))
    other = row(measure="experiments.phase1:total_memory")
    assert digest != Claim.model_validate(other).digest(spends)


def test_a_digest_follows_the_code_of_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    claim, spends = Claim.model_validate(row(measure="some:f")), setting(tmp_path)
    found = []
    for code in ("x = 1", '"""Told."""\n    x = 1  # a comment', "x = 2"):
        (tmp_path / "some.py").write_text(f"def g():\n    pass\n\ndef f():\n    {code}\n")
        found.append(claim.digest(spends))
    assert found[0] == found[1] != found[2]


def test_budgets_grow(tmp_path: Path):
    found = [setting(tmp_path, budget) for budget in BUDGETS]
    for small, large in itertools.pairwise(found):
        assert small.steps < large.steps
        assert len(small.seeds) <= len(large.seeds)
        assert small.seconds < large.seconds
    with pytest.raises(ConfigError, match="did you mean 'quick'"):
        setting(tmp_path, "quik")


def test_a_function_that_is_not_there_is_an_error():
    claim = Claim.model_validate(row(measure="experiments.phase1:nothing"))
    with pytest.raises(
        ConfigError, match=r"claim x-1: experiments\.phase1 has no function nothing"
    ):
        claim.function()
