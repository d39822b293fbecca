"""The report of a text: it holds every picture, says what it lacks, and reads well in a browser."""

from __future__ import annotations

import re
import time

import pytest

from state_core.analysis.explorer import LONGEST
from state_core.analysis.inspect import write_inspection
from state_core.errors import InputError
from tests.analysis.browser import CONTRAST, opened
from tests.texts import sentences

HEADINGS = [
    "Attribution", "Faithfulness", "The graph as a matrix", "Blocks", "The TEMPORAL gate",
    "Landmarks", "Internals",
]  # fmt: skip


@pytest.fixture(scope="module")
def ids(readers):
    text = "<script>alert(1)</script> <b>the captain</b> & " + sentences(12)
    return readers[0].tokenizer.encode(text)[:150]


@pytest.fixture(scope="module")
def report(readers, ids, tmp_path_factory):
    told = []
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_inspection(readers, ids, path, 120, lambda *n: told.append(n))
    assert len(told) == told[-1][1]
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_well_without_a_network(browser, report, ids, scheme):
    with opened(browser, report.as_uri(), scheme) as seen:
        page = seen.page
        assert page.locator("h2").all_inner_texts() == HEADINGS
        pictures = page.locator(".js-plotly-plot")
        assert pictures.count() == 6
        assert all(box["height"] > 100 for box in (p.bounding_box() for p in pictures.all()))
        titles = page.locator(".js-plotly-plot .gtitle")
        assert titles.count() == 6
        inks = [*titles.all(), *page.locator(".xtick text, .ytick text").all()]
        inks += page.locator("h1, .lead, .explorer .text, .explorer td").all()
        assert min(ink.evaluate(CONTRAST) for ink in inks) >= 3
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert page.locator(".explorer .text span").count() == len(ids)
        seen.quiet(report.as_uri())


def test_titles_and_axes_do_not_overlap(browser, report):
    with opened(browser, report.as_uri()) as seen:
        for picture in seen.page.locator(".js-plotly-plot").all():
            title = picture.locator(".gtitle").bounding_box()
            frame = picture.bounding_box()
            assert title["y"] >= frame["y"] - 1
            legend = picture.locator(".legend")
            if legend.count():
                assert legend.first.bounding_box()["y"] >= title["y"] + title["height"] - 1


def test_a_narrow_window_scrolls_pictures_and_not_the_page(browser, report):
    with opened(browser, report.as_uri(), width=400) as seen:
        assert seen.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_it_says_where_the_word_comes_from(readers, report, ids):
    out, data = readers[0].read(ids)
    said = data["next"][120]
    markup = report.read_text(encoding="utf-8")
    assert 'data-chosen="120"' in markup
    assert f"with {said['p']:.1%}" in markup
    shares = re.search(r"Of that, ([\d.]+)% by the vocabulary head", markup)
    word = int(out.logits[0, 120].argmax())
    first = next(s for s in out.explain_prediction(0, 120, word).sources if s.target is None)
    assert float(shares[1]) == pytest.approx(100 * first.share, abs=0.06)


def test_what_a_model_lacks_is_said(browser, readers, ids, tmp_path):
    path = tmp_path / "plain.html"
    write_inspection(readers[1:], ids, path)
    with opened(browser, path.as_uri()) as seen:
        text = seen.page.inner_text("main")
        assert "this graph has no TEMPORAL gate: train a model with" in text
        assert "this graph has no landmarks" in text
        assert seen.page.locator(".js-plotly-plot").count() == 4
        seen.quiet(path.as_uri())


def test_two_models_are_compared_in_it(browser, report):
    with opened(browser, report.as_uri()) as seen:
        buttons = seen.page.locator(".switches button")
        assert buttons.all_inner_texts() == ["whole", "plain", "difference"]
        buttons.nth(1).click()
        assert buttons.nth(1).get_attribute("aria-pressed") == "true"
        seen.quiet(report.as_uri())


def test_one_token(readers, tmp_path):
    write_inspection(readers[:1], [5], tmp_path / "one.html")
    assert "no semantic edge" in (tmp_path / "one.html").read_text(encoding="utf-8")


def test_a_token_that_is_not_there(readers, ids, tmp_path):
    with pytest.raises(InputError, match="token 150 is out of range"):
        write_inspection(readers, ids, tmp_path / "no.html", 150)
    assert not (tmp_path / "no.html").exists()


@pytest.mark.slow
def test_the_longest_text_is_a_file_that_can_be_opened(browser, readers, tmp_path):
    ids = readers[0].tokenizer.encode(sentences(400))[:LONGEST]
    assert len(ids) == LONGEST
    path = tmp_path / "long.html"
    began = time.process_time()
    write_inspection(readers[:1], ids, path)
    assert time.process_time() - began < 60
    assert path.stat().st_size < 12e6
    with opened(browser, path.as_uri()) as seen:
        assert seen.page.locator(".js-plotly-plot .main-svg").first.is_visible()
        assert "cells of 8 × 8 tokens" in seen.page.inner_text("main")
        seen.quiet(path.as_uri())
