"""Shares of blocks, ranked edges, and probes that know what is there and nothing that is not."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from state_core import SOSM
from state_core.analysis import block_shares, probe_blocks, ranked_edges
from state_core.analysis.attribution import attribute, token_shares
from state_core.analysis.provenance import windows
from state_core.analysis.provenance_plots import probes as probe_map
from state_core.analysis.provenance_plots import shares as share_bars
from state_core.analysis.provenance_plots import write_provenance
from state_core.errors import InputError, MissingExtraError
from tests.invariants.variants import build, text


@pytest.fixture
def model() -> SOSM:
    return build("as recommended")


@pytest.fixture
def documents() -> list[torch.Tensor]:
    """Each in words of its own as well as common ones."""
    return [text(1, 200, seed, words=6)[0] + 3 * (seed % 2) for seed in range(6)]


def test_shares_are_those_of_the_graph(model: SOSM, documents: list[torch.Tensor]) -> None:
    found = block_shares(model, documents, window=200)
    assert found.shares.shape == (6, 16)
    torch.testing.assert_close(found.shares.sum(1), torch.ones(6).double())
    with torch.no_grad():
        graph = model(documents[3][None], return_graph=True).graph
    expected = graph.stats().block_shares
    for n, name in enumerate(found.layout):
        assert float(found.shares[3, n]) == pytest.approx(expected[name], abs=1e-6)
    # Blocks without weight in the similarity have no share.
    assert {n for n, share in zip(found.layout, found.mean) if share} == {"I", "R2", "K"}
    assert found.table().row_count == 3
    assert torch.equal(found.spread, found.shares.std(0))


def test_windows_do_not_overlap_and_short_documents_are_read_whole(model: SOSM) -> None:
    ids = np.arange(50) % 7
    assert [w.shape for w in windows(model, ids, 20)] == [(1, 20), (1, 20)]
    assert torch.equal(torch.cat(list(windows(model, ids, 20)), 1)[0], torch.arange(40) % 7)
    assert [w.shape for w in windows(model, ids)] == [(1, 50)]
    assert not list(windows(model, []))


def test_documents_without_semantic_edges_are_left_out(model: SOSM) -> None:
    found = block_shares(model, [text(1, 60)[0], torch.tensor([1, 2])])
    assert len(found.shares) == 1
    with pytest.raises(InputError, match="longer"):
        block_shares(model, [torch.tensor([1, 2]), torch.tensor([], dtype=torch.int64)])


def test_edges_are_ranked_by_what_they_give(model: SOSM) -> None:
    ids = text(2, 40)
    ranked = ranked_edges(model, ids, 30, text=1)
    sizes = [abs(edge.share) for edge in ranked]
    assert sizes == sorted(sizes, reverse=True)
    given = token_shares(attribute(model, ids, 30, text=1))
    assert {r.edge.target: r.share for r in ranked} == pytest.approx(given)
    with torch.no_grad():
        graph = model(ids, return_graph=True).graph
    best = ranked[0].edge
    assert best == graph.explain(1, 30, best.target)


def test_probes_find_what_blocks_are_computed_from(
    model: SOSM, documents: list[torch.Tensor]
) -> None:
    """Blocks see their own token only, the last few, or where it stands, trained or not."""
    told: list[tuple[int, int]] = []
    found = probe_blocks(
        model, documents, window=100, most=300, progress=lambda *done: told.append(done)
    )
    accuracy = {
        (block, label): (found.accuracy[n, k], found.untrained[n, k], found.majority[k])
        for n, block in enumerate(found.blocks)
        for k, label in enumerate(found.labels)
    }
    for mine in accuracy["I", "token"][:2]:
        assert mine > accuracy["I", "token"][2] + 0.3
    # The words of a text were drawn by themselves: who sees one token knows nothing of the last.
    for block in ("I", "S", "E", "A"):
        assert accuracy[block, "previous"][0] < accuracy[block, "previous"][2] + 0.12
        assert accuracy[block, "position"][0] < accuracy[block, "position"][2] + 0.12
    assert accuracy["R1", "previous"][0] > accuracy["I", "previous"][0] + 0.05
    assert accuracy["P", "position"][0] > accuracy["P", "position"][2] + 0.2
    assert found.sources["whole state"] == "all blocks"
    assert found.sources["P"] == "position"
    assert found.classes == (6, 6, 8, 6)
    assert told[-1] == (18 * 4, 18 * 4)
    assert found.table().row_count == 19


def test_probes_repeat_and_leave_the_random_state(
    model: SOSM, documents: list[torch.Tensor]
) -> None:
    before = torch.get_rng_state()
    runs = [probe_blocks(model, documents, labels=["token"], most=100) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(runs[0].accuracy, runs[1].accuracy)
    assert np.array_equal(runs[0].untrained, runs[1].untrained)
    other = probe_blocks(model, documents, labels=["token"], most=100, seed=1)
    assert np.array_equal(other.accuracy, runs[0].accuracy)
    assert not np.array_equal(other.untrained, runs[0].untrained)


def test_pictures_show_what_was_found(model: SOSM, documents: list[torch.Tensor], tmp_path) -> None:
    shared = block_shares(model, documents)
    probed = probe_blocks(model, documents, labels=["token", "document"], most=100)
    bars = share_bars(shared).data[0]
    assert list(bars.y) == pytest.approx(shared.mean.tolist())
    cells = probe_map(probed).data[0]
    assert len(cells.y) == 18
    assert cells.text[0][1] == f"{probed.accuracy[0, 1]:.0%} ({probed.untrained[0, 1]:.0%})"
    one = block_shares(model, documents[:1])
    assert not share_bars(one).data[0].error_y.array[0]
    path = write_provenance(shared, probed, tmp_path / "page.html", "a < b")
    assert "a &lt; b" in path.read_text(encoding="utf-8")


def test_what_cannot_be_is_told(
    model: SOSM, documents: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in (block_shares, probe_blocks):
        with pytest.raises(InputError, match=r"graph\.enabled"):
            call(build("mixer mamba, no graph"), documents)
    with pytest.raises(InputError, match=r"graph\.enabled"):
        ranked_edges(build("mixer mamba, no graph"), text(1, 20), 5)
    with pytest.raises(InputError, match="give two"):
        probe_blocks(model, documents[:1])
    with pytest.raises(InputError, match="'tokens'"):
        probe_blocks(model, documents, labels=["tokens"])
    with pytest.raises(InputError, match="does not vary"):
        probe_blocks(model, [torch.zeros(40, dtype=torch.int64)] * 2, labels=["token"])
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"state-core\[analysis\]"):
        probe_blocks(model, documents)
