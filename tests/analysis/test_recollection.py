"""What the page says of a memory is what the model found there, and gave for it."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import pytest
import torch

from state_core.analysis.explorer import LEAST_SHARE, MEMORY, SOURCES_SHOWN, Reader
from state_core.analysis.inspect import write_inspection
from state_core.analysis.recollection import recollection, remember
from state_core.errors import ConfigError
from state_core.training.tokenizer import Tokenizer
from tests.analysis.conftest import reader
from tests.texts import sentences

SEGMENT = 40


@pytest.fixture(scope="module")
def forgetful() -> Reader:
    """A model that can remember, and has read nothing yet; its pointer head speaks up."""
    found = reader("remembers", "memory", Tokenizer.train([sentences()], 300))
    config = found.model.config.override({"train.seq_len": SEGMENT})
    model = type(found.model)(config).eval()
    model.load_state_dict(found.model.state_dict())
    with torch.no_grad():
        model.pointer.vocabulary.bias.fill_(-2.0)
    return replace(found, model=model)


@pytest.fixture(scope="module")
def text(forgetful: Reader) -> list[int]:
    return forgetful.tokenizer.encode(sentences(30))[:201]


@pytest.fixture(scope="module")
def having_read(forgetful: Reader, text: list[int]) -> tuple[Reader, list[int]]:
    memory, last = remember(forgetful.model, text, capacity=100)
    return replace(forgetful, memory=memory), last


def test_all_but_the_end_is_remembered_and_nothing_twice(forgetful, text, having_read):
    read, last = having_read
    assert last == text[-SEGMENT:]
    held = read.memory.rows[0].kept["tokens"].values.tolist()
    assert held == text[: 1 - SEGMENT][:-1][-100:]
    assert read.memory.item(0, len(text) - SEGMENT - 1).word == last[0]
    told: list[tuple[int, int]] = []
    short, all_of_it = remember(forgetful.model, text[:SEGMENT], 100, lambda *n: told.append(n))
    assert (len(short), all_of_it, told) == (0, text[:SEGMENT], [])


def test_a_model_without_a_memory_says_so(readers, text):
    with pytest.raises(ConfigError, match=r"memory\.enabled"):
        remember(readers[0].model, text, 100)


def test_sources_add_up_with_memory_as_one_of_them(having_read):
    read, last = having_read
    out, data = read.read(last)
    remembered = 0
    for i, said in enumerate(data["next"]):
        parts: dict[tuple[int | None, int | None], float] = {}
        for source in out.explain_prediction(0, i).sources:
            kind = MEMORY if source.item is not None else source.kind
            parts[source.target, kind] = parts.get((source.target, kind), 0.0) + source.share
        best = sorted((s for s in parts.values() if s >= LEAST_SHARE), reverse=True)
        assert [share for share, _, _ in said["sources"]] == pytest.approx(
            best[:SOURCES_SHOWN], abs=6e-4
        )
        for share, target, kind in said["sources"]:
            assert share == pytest.approx(parts[target, kind], abs=6e-4)
            remembered += kind == MEMORY
    assert remembered


def test_it_lists_what_was_found_with_its_blocks_and_its_share(having_read):
    read, last = having_read
    out, _ = read.read(last)
    spell = read.tokenizer.pieces
    position = max(
        range(SEGMENT),
        key=lambda i: sum(s.share for s in out.explain_prediction(0, i).sources if s.item),
    )
    markup = recollection(out, read.memory, position, spell)
    found = out.explain_recall(read.memory, 0, position)
    assert markup.count("<tr") == len(found) > 0
    for one in found:
        assert f"token {one.item.position:,}, {one.similarity:+.2f}" in markup
    given = sum(s.share for s in out.explain_prediction(0, position).sources if s.item is not None)
    assert given > 0
    assert re.search(rf"they give {given:.1%}", markup)
    words = [unescape(word) for word in re.findall(r"<mark>(.*?)</mark>", markup)]
    assert words == [spell([one.item.word])[0].strip() or "↵" for one in found]


def test_a_report_tells_of_it(having_read, tmp_path):
    read, last = having_read
    path = tmp_path / "report.html"
    write_inspection([read], last, path, SEGMENT - 1)
    markup = path.read_text(encoding="utf-8")
    assert "<h2>Memory</h2>" in markup
    assert "with 100 remembered behind them" in markup
    assert "measured without the memory" in markup
