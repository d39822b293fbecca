"""The reversed graph: both ways of sorting give one layout; an answer is kept while it holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from state_core.errors import InputError
from state_core.ops.reverse_edges import ReversedEdges, reverse_edges, sorted_reverse_edges

Reverse = Callable[[Tensor, Tensor, int], ReversedEdges]
BOTH = pytest.mark.parametrize("reverse", [reverse_edges, sorted_reverse_edges])


def table(batch: int, rows: int, width: int, sources: int) -> tuple[Tensor, Tensor]:
    counts = torch.randint(0, width + 1, (batch, rows), dtype=torch.int32)
    neighbors = torch.randint(0, max(sources, 1), (batch, rows, width), dtype=torch.int32)
    return neighbors.where(torch.arange(width) < counts[..., None], -1), counts


@BOTH
@pytest.mark.parametrize(
    ("batch", "rows", "width", "sources"),
    [(1, 1, 1, 1), (3, 65, 7, 40), (2, 9, 0, 4), (0, 3, 2, 5)],
)
def test_groups_hold_exactly_the_edges_of_their_token_in_order(
    reverse: Reverse, batch: int, rows: int, width: int, sources: int
) -> None:
    neighbors, counts = table(batch, rows, width, sources)
    starts, edges = reverse(neighbors, counts, sources)
    assert starts.dtype == edges.dtype == torch.int32
    assert starts.shape == (batch, sources + 1)
    for b in range(batch):
        for j in range(sources):
            mine = edges[b, starts[b, j] : starts[b, j + 1]].tolist()
            places = (neighbors[b].flatten() == j).nonzero().flatten()
            assert mine == places.tolist()


@BOTH
def test_refuses_a_table_that_points_nowhere(reverse: Reverse) -> None:
    good, full = torch.zeros(1, 3, 2, dtype=torch.int32), torch.full((1, 3), 2, dtype=torch.int32)
    for neighbors, counts in ((good - 1, full), (good + 5, full), (good, full + 1), (good, -full)):
        with pytest.raises(InputError, match="neighbors within"):
            reverse(neighbors, counts, 5)


@BOTH
def test_an_answer_is_kept_until_the_graph_changes(reverse: Reverse) -> None:
    neighbors, counts = table(2, 8, 3, 8)
    first = reverse(neighbors, counts, 8)
    assert reverse(neighbors, counts, 8).edges is first.edges
    assert reverse(neighbors, counts, 9).edges is not first.edges
    counts.zero_()
    assert not reverse(neighbors, counts, 8).starts.any()
