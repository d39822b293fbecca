"""The explorer in the browser, on this machine alone: `sosm inspect --serve`.

One page, and two questions that it asks: what a model makes of a text, and where a predicted word
comes from. The server listens on 127.0.0.1, answers nothing that another site's page asks, reads no
files, and takes no more than a text.

All models work in one thread: two texts at once would take each other's cores.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from state_core.analysis.attribution import Part, attribute, token_shares
from state_core.analysis.explorer import LONGEST, SCRIPTS, Reader
from state_core.analysis.html import page, tag
from state_core.errors import InputError, MissingExtraError, SOSMError

try:
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from fastapi.middleware.trustedhost import TrustedHostMiddleware
    from fastapi.responses import HTMLResponse, JSONResponse
except ImportError:
    raise MissingExtraError("fastapi with uvicorn", "serve", "sosm inspect --serve") from None

HOST = "127.0.0.1"
LARGEST = 200_000  # bytes of a question; 2000 tokens are some 10,000
WARM_UP = 500  # tokens
PARTS_SHOWN = 8
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Answer = TypeVar("Answer")
Asked = TypeVar("Asked", bound=BaseModel)


class Text(BaseModel):
    """What do the models make of this?"""

    model_config = ConfigDict(extra="forbid", strict=True)
    text: str


class Word(Text):
    """Where does model number `model` take the word after token `position` from?"""

    position: int = Field(ge=0)
    model: int = Field(ge=0)


def serve(
    readers: Sequence[Reader],
    port: int,
    text: str = "",
    announce: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the explorer of one model, or of two to compare, until interrupted.

    text: what the page shows at first. announce: told the address when the page is ready, which is
    after the models' kernels are compiled. InputError if the port is taken.
    """
    listening = _listen(port)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sosm") as thread:
        thread.submit(warm_up, readers).result()
        config = uvicorn.Config(create_app(readers, thread, text), log_level="warning")
        announce(f"http://{HOST}:{listening.getsockname()[1]}/")
        uvicorn.Server(config).run(sockets=[listening])


def warm_up(readers: Sequence[Reader]) -> None:
    """Read something with every model, so that the first real text need not wait for kernels."""
    generator = torch.Generator().manual_seed(0)
    for reader in readers:
        size = reader.tokenizer.vocab_size
        ids = torch.randint(1, size, (WARM_UP,), generator=generator).tolist()
        reader.read(ids)
        attribute(reader.model, torch.tensor([ids]), WARM_UP - 1)


def create_app(readers: Sequence[Reader], thread: ThreadPoolExecutor, text: str = "") -> FastAPI:
    """The page and what it asks for, in which models work in `thread`."""
    # Without FastAPI's own pages: they would load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        """No other site may ask through the user's browser."""
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{request.headers.get('host')}":
            return JSONResponse({"error": "not a request of this page"}, 403, HEADERS)
        response = await answer(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(SOSMError)
    async def say(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.get("/", response_class=HTMLResponse)
    async def show() -> str:
        return _page(readers, text)

    @app.get("/favicon.ico")
    async def icon() -> Response:
        return Response(status_code=204)

    @app.post("/read")
    async def read(request: Request) -> JSONResponse:
        question = await _asked(request, Text)
        return JSONResponse(await _in(thread, lambda: _readings(readers, question)))

    @app.post("/attribute")
    async def explain(request: Request) -> JSONResponse:
        question = await _asked(request, Word)
        return JSONResponse(await _in(thread, lambda: _attribution(readers, question)))

    return app


def _readings(readers: Sequence[Reader], question: Text) -> dict[str, Any]:
    """What each model makes of a text, and how long that took."""
    began = time.perf_counter()
    readings = [reader.read(reader.ids(question.text))[1] for reader in readers]
    return {"readings": readings, "seconds": round(time.perf_counter() - began, 3)}


def _attribution(readers: Sequence[Reader], question: Word) -> dict[str, Any]:
    """The tree of a prediction, its levels below the second added up, and what each token gives."""
    if question.model >= len(readers):
        raise InputError(f"there is no model {question.model}: there are {len(readers)}")
    reader = readers[question.model]
    ids = reader.ids(question.text)[: question.position + 1]
    before = torch.tensor([ids])
    tree = attribute(reader.model, before, question.position, memory=reader.memory)
    groups = tree.parts if tree.path == "p" else (tree,)
    return {
        "groups": [[part.path, part.share, list(_largest(part))] for part in groups],
        "tokens": token_shares(tree),
    }


def _largest(part: Part) -> Iterator[tuple[str, float]]:
    """The largest parts of a part, and what all others give: they add up to it."""
    parts = sorted(part.parts, key=lambda p: -abs(p.share))
    shown = parts if len(parts) <= PARTS_SHOWN else parts[: PARTS_SHOWN - 1]
    yield from ((p.path.removeprefix(f"{part.path}/"), p.share) for p in shown)
    if len(shown) < len(parts):
        rest = parts[len(shown) :]
        yield f"{len(rest)} others", sum(p.share for p in rest)


async def _asked(request: Request, kind: type[Asked]) -> Asked:
    """The question of a request. InputError if it is none, or too long to be one."""
    if request.headers.get("content-type") != "application/json":
        raise InputError("not a request of this page")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise InputError(
                f"the text is too long: {LONGEST:,} tokens can be shown, take a part of it"
            )
    try:
        return kind.model_validate_json(body)
    except ValidationError:
        raise InputError("not a request of this page") from None


async def _in(thread: ThreadPoolExecutor, work: Callable[[], Answer]) -> Answer:
    return await asyncio.get_running_loop().run_in_executor(thread, work)


def _listen(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        # From now on whoever asks is heard, and waits for the answer.
        listening.listen()
    except OSError as error:
        listening.close()
        raise InputError(f"cannot listen on port {port}: {error}. Choose another --port") from None
    return listening


def _page(readers: Sequence[Reader], text: str) -> str:
    names = " and ".join(reader.name for reader in readers)
    title = f"What {names} makes of a text" if len(readers) == 1 else f"{names}, compared"
    form = tag(
        "form",
        tag(
            "textarea",
            f"\n{text}",
            id="text",
            rows=5,
            aria_label="The text",
            placeholder="A text …",
        ),
        tag(
            "div",
            tag("button", "Draw its graph", id="draw", type="submit"),
            tag("span", id="status", class_="note", role="status"),
            class_="asking",
        ),
        tag("p", id="problem", class_="problem", role="alert", hidden=True),
        id="ask",
    )
    shown = tag("div", id="explored", class_="explorer", hidden=True)
    scripts = [*SCRIPTS, "live.js"]
    return page(title, tag("h1", title), form, shown, scripts=scripts, asks=True)
