"""torch.compile takes the model as it is: the same numbers, and no compilation per length."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from state_core import SOSM, SOSMConfig

# One chunk of the state's averages, several, and several without a rest: three graphs in all.
REGIMES = (40, 100, 128)


@pytest.mark.slow
def test_new_lengths_do_not_recompile():
    torch._dynamo.reset()
    model = SOSM(SOSMConfig.preset("default", vocab_size=64)).eval()  # K keeps no statistics
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, dynamic=True)

    def loss(length: int) -> torch.Tensor:
        ids = torch.randint(0, 64, (2, length))
        eager = model(ids, labels=ids).loss  # also the ops' own first call, which imports them
        torch.testing.assert_close(compiled(ids, labels=ids).loss, eager)
        return eager

    for length in REGIMES:
        loss(length).backward()
    known = counter.frame_count
    assert known > 0
    for length in (33, 48, 77, 130, 65, 129, 256):
        loss(length)
    assert counter.frame_count == known
