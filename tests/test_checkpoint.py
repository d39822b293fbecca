from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from state_core import SOSM, SOSMConfig
from state_core.checkpoint import read_info, save_model
from state_core.errors import CheckpointError


def tiny(preset: str = "default", **values: object) -> SOSM:
    torch.manual_seed(0)
    config = SOSMConfig.preset(preset, vocab_size=61).override(
        {
            "d_model": 32,
            "embed_rank": 16,
            "layers": ["mamba", "graph_attention"] if preset == "default" else ["attention"],
            "mlp_hidden": 24,
            "attention.n_heads": 2,
            "mamba.headdim": 16,
            "mamba.d_state": 8,
            **values,
        }
    )
    return SOSM(config)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = tiny()
    ids = torch.randint(61, (2, 40))
    model(ids)  # moves the running statistics, which must be saved as well
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_loaded_model_is_the_saved_one(saved: Path) -> None:
    model = SOSM.from_pretrained(saved)
    again = saved.parent / "again"
    model.save_pretrained(again)
    assert (again / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()
    assert not model.training
    assert int(model.graph_builder.adaptive_k.batches) == 1
    ids = torch.randint(61, (1, 33))
    assert torch.equal(model(ids).logits, SOSM.from_pretrained(again)(ids).logits)


def test_it_knows_its_tokenizer(tmp_path: Path) -> None:
    save_model(tiny(), tmp_path, tokenizer="abc")
    assert read_info(tmp_path)["tokenizer"] == "abc"


def test_the_weights_alone_are_a_whole_model(saved: Path) -> None:
    (saved / "config.json").unlink()
    assert SOSM.from_pretrained(saved).config.vocab_size == 61


def test_another_models_configuration_is_refused(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "vocab_size": 62}))
    with pytest.raises(CheckpointError, match="not the configuration"):
        SOSM.from_pretrained(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot read"):
        SOSM.from_pretrained(saved)


def test_a_missing_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no"):
        SOSM.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 7, 500, -1])
def test_a_truncated_file_is_refused(saved: Path, keep: int) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        SOSM.from_pretrained(saved)


@pytest.mark.parametrize("place", [-1, -1000])
def test_an_altered_weight_is_refused(saved: Path, place: int) -> None:
    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="altered"):
        SOSM.from_pretrained(saved)


def test_an_altered_configuration_inside_is_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    data = path.read_bytes()
    (saved / "config.json").unlink()
    changed = data.replace(b'\\"mlp_hidden\\": 24', b'\\"mlp_hidden\\": 25')
    assert changed != data
    path.write_bytes(changed)
    with pytest.raises(CheckpointError, match="altered"):
        SOSM.from_pretrained(saved)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        SOSM.from_pretrained(tmp_path)


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no model of this version"):
        SOSM.from_pretrained(tmp_path)


def test_saving_over_a_model_replaces_it(saved: Path) -> None:
    tiny("baseline", mlp_hidden=8).save_pretrained(saved)
    assert SOSM.from_pretrained(saved).config.mlp_hidden == 8
