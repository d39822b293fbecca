"""I8: a saved model comes back to the bit, and a file that was touched is refused.

Kills and full disks while writing: tests/test_atomic.py and tests/training/test_loop.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from state_core import SOSM
from state_core.checkpoint import CONFIG_FILE, MODEL_FILE
from state_core.errors import CheckpointError
from tests.invariants.variants import VARIANTS, build, text


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    model = build(name)
    model.save_pretrained(tmp_path)
    again = SOSM.from_pretrained(tmp_path)
    assert again.config == model.config
    with torch.no_grad():
        assert torch.equal(again(text(2, 20)).logits, model(text(2, 20)).logits)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build("as recommended").save_pretrained(folder)
    return folder


@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_one_changed_byte_is_noticed(saved: Path, where: float, flip: int) -> None:
    path = saved / MODEL_FILE
    whole = path.read_bytes()
    place = int(where * len(whole))
    changed = bytearray(whole)
    changed[place] ^= flip
    path.write_bytes(changed)
    try:
        with pytest.raises(CheckpointError):
            SOSM.from_pretrained(saved)
    finally:
        path.write_bytes(whole)


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_noticed(saved: Path, share: float) -> None:
    path = saved / MODEL_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    try:
        with pytest.raises(CheckpointError):
            SOSM.from_pretrained(saved)
    finally:
        path.write_bytes(whole)


def test_weights_and_configuration_belong_together(saved: Path) -> None:
    path = saved / CONFIG_FILE
    whole = path.read_text()
    path.write_text(whole.replace('"d_conv": 4', '"d_conv": 3'))
    try:
        with pytest.raises(CheckpointError, match=CONFIG_FILE):
            SOSM.from_pretrained(saved)
    finally:
        path.write_text(whole)
