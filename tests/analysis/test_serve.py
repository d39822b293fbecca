"""The explorer in the browser: what a person clicks, and what the page says then."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from state_core import EdgeKind
from state_core.analysis.attribution import attribute
from state_core.analysis.explorer import Reader
from state_core.training.tokenizer import Tokenizer
from tests.analysis.browser import CONTRAST, opened
from tests.texts import sentences

pytest.importorskip("fastapi", reason="needs the extra serve: pip install 'state-core[serve]'")
import uvicorn

from state_core.analysis import serve
from state_core.errors import InputError

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\n"
TEXT = HOSTILE + sentences(10)


@pytest.fixture(scope="module")
def one(readers) -> Iterator[str]:
    yield from served(readers[:1])


@pytest.fixture(scope="module")
def two(readers) -> Iterator[str]:
    yield from served(readers)


def served(readers: list[Reader], text: str = "") -> Iterator[str]:
    """The address of a server that runs in a thread of this process."""
    listening = serve._listen(0)
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(serve.warm_up, readers).result()
        app = serve.create_app(readers, thread, text)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        running.start()
        yield f"http://{serve.HOST}:{listening.getsockname()[1]}/"
        server.should_exit = True
        running.join()


def draw(page, text: str) -> None:
    page.fill("#text", text)
    page.click("#draw")
    page.wait_for_selector("#draw:not([disabled])")


def drawn(page) -> list[tuple[int, int]]:
    """The edges that the diagram shows."""
    found = page.evaluate(
        "document.getElementById('explored').explorer.drawn.map(({i, j}) => [i, j])"
    )
    return [(i, j) for i, j in found]


def values(cells) -> list[float]:
    return [float(text.replace("−", "-")) for text in cells.all_inner_texts()]


def shares(cells) -> list[float]:
    return [float(text.replace("−", "-").rstrip(" %")) for text in cells.all_inner_texts()]


def test_a_typed_text_is_drawn_and_stays_text(browser, one, readers):
    with opened(browser, one) as seen:
        draw(seen.page, TEXT)
        ids = readers[0].ids(TEXT)
        graph = readers[0].read(ids)[0].graph
        status = seen.page.inner_text("#status")
        assert status.startswith(f"{len(ids)} tokens, {len(graph.weight):,} edges, drawn in")
        spans = seen.page.locator("#explored .text span")
        assert spans.all_text_contents() == readers[0].tokenizer.pieces(ids)
        assert seen.page.locator("#explored img, #explored script").count() == 0
        seen.quiet(one)


def test_a_clicked_token_tells_its_edges_and_its_prediction(browser, one, readers):
    reader = readers[0]
    ids = reader.ids(TEXT)
    out, data = reader.read(ids)
    token = 90
    with opened(browser, one) as seen:
        draw(seen.page, TEXT)
        seen.page.click(f"[data-token='{token}']")
        assert f"token {token}, looks at" in seen.page.inner_text(".list h3")
        row = out.graph.rows(0, token)
        semantic = row.neighbors[row.kinds == EdgeKind.SEMANTIC].tolist()
        told = [e.split() for e in edges_told(seen.page)]
        assert {(int(i), int(j)) for i, j in told} >= {(token, j) for j in semantic}
        seen.page.wait_for_selector(".attribution tr.sum")
        groups = shares(seen.page.locator(".attribution tr.group td:last-child"))
        parts = shares(seen.page.locator(".attribution tr.part td:last-child"))
        assert seen.page.inner_text(".attribution tr.sum td:last-child") == "100 %"
        assert sum(groups) == pytest.approx(100, abs=0.6 * len(groups))
        assert sum(parts) == pytest.approx(100, abs=0.6 * len(parts))
        tree = attribute(reader.model, reader_ids(ids[: token + 1]), token)
        assert groups == pytest.approx([100 * p.share for p in tree.parts], abs=0.6)
        assert data["next"][token]["word"].strip() in seen.page.inner_text(".said h3")
        seen.quiet(one)


def edges_told(page) -> list[str]:
    return [row.get_attribute("data-edge") for row in page.locator("tr.edge").all()]


def reader_ids(ids):
    import torch

    return torch.tensor([ids])


def test_a_clicked_edge_adds_up(browser, one, readers):
    ids = readers[0].ids(TEXT)
    graph = readers[0].read(ids)[0].graph
    with opened(browser, one) as seen:
        page = seen.page
        draw(page, TEXT)
        # The top of an arc that stands alone there, in what the window shows of the diagram.
        i, j, x, y = page.evaluate(
            """() => {
              const e = document.getElementById("explored").explorer;
              const box = e.canvas.getBoundingClientRect();
              const top = ({i, j}) => [(e.x(i) + e.x(j)) / 2, e.base - e.height({i, j})];
              const alone = (edge) => e.edgeAt(...top(edge)) === edge;
              const here = e.drawn.filter((edge) => top(edge)[0] < box.width - 20 && alone(edge));
              const edge = here.reduce((a, b) => a.i - a.j > b.i - b.j ? a : b);
              const [x, y] = top(edge);
              return [edge.i, edge.j, box.x + x, box.y + y];
            }"""
        )
        page.mouse.move(x, y)
        assert "looks at" in page.inner_text(".tip")
        page.mouse.click(x, y)
        assert f"({i}) looks at" in page.inner_text(".provenance h3")
        said = graph.explain(0, i, j)
        weight = float(re.search(r"weight (−?[\d.]+)", page.inner_text(".provenance p"))[1])
        assert weight == pytest.approx(said.weight, abs=6e-4)
        blocks = values(page.locator(".provenance tr:not(.sum) td:nth-child(2)"))
        assert blocks == pytest.approx([c for c in said.contributions.values() if c], abs=6e-4)
        (together,) = values(page.locator(".provenance tr.sum td:nth-child(2)"))
        assert together == pytest.approx(sum(blocks), abs=2e-3)
        assert together == pytest.approx(weight, abs=2e-3)
        assert f"gate {said.gate:.2f}" in page.inner_text(".provenance p")
        assert "it votes for" in page.inner_text(".provenance p")
        seen.quiet(one)


def test_kinds_blocks_and_ranks_are_filtered(browser, one, readers):
    ids = readers[0].ids(TEXT)
    graph = readers[0].read(ids)[0].graph
    kinds = dict(zip(map(tuple, graph.edge_index.T.tolist()), graph.kind.tolist()))
    best = {
        edge: graph.layout[int(parts.abs().argmax())]
        for edge, parts in zip(kinds, graph.contributions)
    }

    def of(kind: EdgeKind) -> set[tuple[int, int]]:
        return {edge for edge, k in kinds.items() if k == kind}

    with opened(browser, one) as seen:
        page = seen.page
        draw(page, TEXT)
        page.uncheck("[data-kind='semantic']")
        page.uncheck("[data-kind='successor']")
        assert drawn(page) == []
        page.check("[data-kind='sequential']")
        assert set(drawn(page)) == of(EdgeKind.SEQUENTIAL)
        page.check("[data-kind='shortcut']")
        assert set(drawn(page)) == of(EdgeKind.SEQUENTIAL) | of(EdgeKind.SHORTCUT)
        page.uncheck("[data-kind='sequential']")
        page.uncheck("[data-kind='shortcut']")
        page.check("[data-kind='semantic']")
        page.locator("input[type=range]").fill("12")
        assert set(drawn(page)) == of(EdgeKind.SEMANTIC)
        page.uncheck("[data-block='I']")
        left = {edge for edge in of(EdgeKind.SEMANTIC) if best[edge] != "I"}
        assert 0 < len(left) < len(of(EdgeKind.SEMANTIC))
        assert set(drawn(page)) == left
        seen.quiet(one)


def test_the_text_is_coloured_by_attribution(browser, one):
    with opened(browser, one) as seen:
        draw(seen.page, TEXT)
        seen.page.click("[data-token='80']")
        seen.page.wait_for_selector(".attribution tr.sum")
        tinted = "[...document.querySelectorAll('.text span')].map((s) => s.style.background)"
        by_edges = seen.page.evaluate(tinted)
        seen.page.check("[data-shade]")
        by_attribution = seen.page.evaluate(tinted)
        assert any(by_attribution)
        assert by_attribution != by_edges
        seen.quiet(one)


def test_keys_move_between_tokens(browser, one):
    with opened(browser, one) as seen:
        draw(seen.page, TEXT)
        seen.page.locator(".explorer .text").focus()
        for _ in range(3):
            seen.page.keyboard.press("ArrowRight")
        assert "token 2, looks at" in seen.page.inner_text(".list h3")
        seen.page.keyboard.press("Escape")
        assert seen.page.locator(".list h3").count() == 0


def test_two_models_are_compared_edge_by_edge(browser, two, readers):
    ids = readers[0].ids(TEXT)
    graphs = [reader.read(ids)[0].graph for reader in readers]
    first, second = (set(map(tuple, g.edge_index.T.tolist())) for g in graphs)
    with opened(browser, two) as seen:
        page = seen.page
        draw(page, TEXT)
        for kind in ("sequential", "sink", "shortcut"):
            page.check(f"[data-kind='{kind}']")
        page.locator("input[type=range]").fill("12")
        expected = {0: first & second, 1: first - second, 2: second - first}
        for side, edges in expected.items():
            for other in expected:
                page.locator(f"[data-side='{other}']").set_checked(other == side)
            assert set(drawn(page)) == edges
            label = page.locator(f"label:has([data-side='{side}'])").inner_text()
            assert label.split()[-1] == f"{len(edges):,}"
        # A line break has no place in the text that could be clicked.
        words = {i for i, piece in enumerate(readers[0].tokenizer.pieces(ids)) if piece.strip()}
        i, j = next(edge for edge in sorted(second - first, reverse=True) if edge[0] in words)
        page.click(f"[data-token='{i}']")
        page.locator(f"tr[data-edge='{i} {j}']").click()
        facts = page.locator(".provenance p").all_inner_texts()
        assert facts[0] == "whole: there is no such edge"
        assert facts[1].startswith("plain: ")
        said = graphs[1].explain(0, i, j)
        (together,) = values(page.locator(".provenance tr.sum td:nth-child(3)"))
        assert together == pytest.approx(said.weight, abs=2e-3)
        assert page.locator(".said h3").count() == 2
        seen.quiet(two)


def test_an_edge_of_both_has_both_weights(browser, two, readers):
    ids = readers[0].ids(TEXT)
    graphs = [reader.read(ids)[0].graph for reader in readers]
    with opened(browser, two) as seen:
        page = seen.page
        draw(page, TEXT)
        page.check("[data-kind='sequential']")
        page.check("[data-side='0']")
        page.click("[data-token='50']")
        page.locator("tr[data-edge='50 49']").click()
        sums = values(page.locator(".provenance tr.sum td").filter(has_text=re.compile(r"\d")))
        weights = [graph.explain(0, 50, 49).weight for graph in graphs]
        assert sums == pytest.approx(weights, abs=2e-3)
        page.locator(".switches button").nth(1).click()
        assert set(drawn(page)) <= set(map(tuple, graphs[1].edge_index.T.tolist()))
        seen.quiet(two)


def test_other_words_are_shown_and_not_compared(browser, readers):
    other = Tokenizer.train(["an altogether different text, of other words. " * 9], 270)
    config = readers[1].model.config.override({"vocab_size": other.vocab_size})
    stranger = replace(
        readers[1], name="stranger", model=type(readers[1].model)(config).eval(), tokenizer=other
    )
    for address in served([readers[0], stranger], "the captain saw the harbour"):
        with opened(browser, address) as seen:
            seen.page.wait_for_selector("#status[data-seconds]")
            assert "edges cannot be compared" in seen.page.inner_text(".switches")
            seen.page.locator(".switches button").nth(0).click()
            spans = seen.page.locator("#explored .text span").all_text_contents()
            assert "".join(spans) == "the captain saw the harbour"
            assert len(spans) < len(other.encode("the captain saw the harbour"))
            seen.quiet(address)


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "it is empty"), ("a " * 2500, "2,000 can be shown"), ("x" * 300_000, "is too long")],
)
def test_bad_input_is_a_message_on_the_page(browser, one, text, says):
    with opened(browser, one) as seen:
        draw(seen.page, "the captain")
        draw(seen.page, text)
        assert says in seen.page.inner_text("#problem")
        assert seen.page.inner_text("#status") == ""
        draw(seen.page, "the harbour slept")
        assert not seen.page.is_visible("#problem")
        assert seen.page.inner_text("#status")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_it_can_be_read_in_both_schemes_and_narrow(browser, two, scheme, width):
    with opened(browser, two, scheme, width) as seen:
        page = seen.page
        draw(page, TEXT)
        page.click("[data-token='60']")
        page.wait_for_selector(".attribution tr.sum")
        page.locator("tr.edge").first.click()
        inks = page.locator("h1, #text, #status, .explorer label, .explorer td, .explorer h3").all()
        assert min(ink.evaluate(CONTRAST) for ink in inks if ink.is_visible()) >= 3
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        seen.quiet(two)


def test_five_hundred_tokens_are_drawn_within_two_seconds(browser, one, readers):
    tokenizer = readers[0].tokenizer
    text = tokenizer.decode(tokenizer.encode(sentences(60))[:500])
    taken = []
    with opened(browser, one) as seen:
        for _ in range(3):
            draw(seen.page, text)
            taken.append(float(seen.page.get_attribute("#status", "data-seconds")))
        assert re.match(r"(49\d|50\d) tokens", seen.page.inner_text("#status"))
    assert min(taken) < 2, taken


def ask(address: str, path: str, body: bytes | None, **headers: str) -> tuple[int, bytes, dict]:
    """A request by hand, as no browser would send it."""
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    sent = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    connection.request("GET" if body is None else "POST", path, body, sent)
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


QUESTION = json.dumps({"text": "the captain"}).encode()


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/read", QUESTION, {}, 200),
        ("/read", QUESTION, {"Origin": "http://evil.example"}, 403),
        ("/read", QUESTION, {"Origin": "null"}, 403),
        ("/read", QUESTION, {"Host": "evil.example"}, 400),
        ("/read", QUESTION, {"Content_Type": "text/plain"}, 400),
        ("/read", b"no json", {}, 400),
        ("/read", b'{"text": 3}', {}, 400),
        ("/read", b'{"text": "a", "path": "/etc/passwd"}', {}, 400),
        ("/read", b"x" * 1_000_000, {}, 400),
        ("/attribute", b'{"text": "a", "position": 0, "model": 7}', {}, 400),
        ("/attribute", b'{"text": "a", "position": 99, "model": 0}', {}, 400),
        ("/attribute", b'{"text": "a", "position": -1, "model": 0}', {}, 400),
        ("/../../etc/passwd", None, {}, 404),
        ("/docs", None, {}, 404),
        ("/openapi.json", None, {}, 404),
        ("/read", None, {}, 405),
        ("/favicon.ico", None, {}, 204),
    ],
)
def test_who_may_ask_what(one, path, body, headers, status):
    got, said, sent = ask(one, path, body, **headers)
    assert got == status, said
    assert b"Traceback" not in said
    if status == 200:
        assert sent["cache-control"] == "no-store"
        assert sent["x-content-type-options"] == "nosniff"


def test_it_listens_to_this_machine_alone():
    with serve._listen(0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        with pytest.raises(InputError, match="Choose another --port"):
            serve._listen(listening.getsockname()[1])


def test_the_parts_of_a_long_tree_add_up(readers):
    ids = readers[0].ids(TEXT)
    told = serve._attribution(readers, serve.Word(text=TEXT, position=len(ids) - 1, model=0))
    for _, share, parts in told["groups"]:
        assert len(parts) <= serve.PARTS_SHOWN
        assert sum(x for _, x in parts) == pytest.approx(share, abs=1e-6)
    assert sum(share for _, share, _ in told["groups"]) == pytest.approx(1)
