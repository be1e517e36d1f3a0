"""The server: fixed pages from the package, and three answers in JSON or as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from minillama.apps.serve.attention_maps import attention_weights
from minillama.apps.serve.events import Event, completion_events
from minillama.apps.serve.guard import Guard
from minillama.apps.serve.request_schemas import (
    MAX_BODY,
    MAX_PICTURE,
    AttentionRequest,
    Refused,
    TextRequest,
    limits,
    parse_request,
    prompt_ids,
)
from minillama.errors import MinillamaError
from minillama.inference import Decoder
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

PAGES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/heads.js": ("heads.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Every file that is served, by its whole path."""


@dataclass
class Served:
    """A model, and what the page tells about it."""

    model: Llama
    tokenizer: Tokenizer
    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    """What training left behind: ``loss``, ``bpb`` and ``step``, where they are known."""

    def about(self) -> dict[str, Any]:
        """The model, and the limits of a request."""
        config = self.model.config
        return {
            "name": self.name,
            "parameters": config.num_parameters(),
            "layers": config.n_layers,
            "heads": config.n_heads,
            "context": config.max_seq_len,
            "vocabulary": config.vocab_size,
            "picture_tokens": MAX_PICTURE,
            "limits": limits(config),
            **self.facts,
        }


class Turns:
    """A few at once, a few in a short queue; whoever comes then is told to come later.

    Args:
        at_once: requests that may use the model at the same time.
        queue: requests that may wait.
        patience: how long each waits, in seconds.
    """

    def __init__(self, at_once: int, queue: int = 4, patience: float = 20.0) -> None:
        self.free = asyncio.Semaphore(at_once)
        self.waiting, self.queue, self.patience = 0, queue, patience
        self.over = False
        """Set when the server ends: completions under way stop at the next token."""

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """A turn at the model. Raises ``Refused``."""
        busy = Refused(503, "The model is busy with other requests. Try again in a moment.")
        if self.free.locked() and self.waiting >= self.queue:
            raise busy
        self.waiting += 1
        try:
            async with asyncio.timeout(self.patience):
                await self.free.acquire()
        except TimeoutError:
            raise busy from None
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self.free.release()


class EventStream:
    """The response that streams a completion; it holds a turn, and no longer than it lasts."""

    def __init__(self, events: Iterator[Event], turns: Turns) -> None:
        self.events, self.turns = events, turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a turn, then run the model in a thread, one token at a time.

        When the client leaves, starlette stops asking for the next token.
        """
        async with self.turns.one():
            stream = StreamingResponse(self.lines(), media_type="text/event-stream")
            await stream(scope, receive, send)

    def lines(self) -> Iterator[str]:
        """The events as they are written, until the server ends."""
        for name, values in self.events:
            if self.turns.over:
                return
            yield f"event: {name}\ndata: {json.dumps(values)}\n\n"


async def answer_error(request: Request, error: Exception) -> Response:
    """A refusal as JSON; a page that is sent 503 may come again."""
    status, message = 400, str(error)
    if isinstance(error, Refused):
        status = error.status
    elif isinstance(error, HTTPException):
        status = error.status_code
        message = f"{error.detail}."
    headers = {"Retry-After": "2"} if status == 503 else None
    return JSONResponse({"error": message}, status, headers)


async def read_body(request: Request) -> bytes:
    """The JSON body of a request, never more than ``MAX_BODY`` of it. Raises ``Refused``."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # what no form of another site can send
        raise Refused(415, "Send JSON, with the content type application/json.")
    too_large = Refused(413, f"The request is larger than {MAX_BODY // 1024} KiB.")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MAX_BODY:
        raise too_large
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise too_large
    return bytes(body)


def page_route(path: str, file: str, kind: str) -> Route:
    """Serves one file of the package, which is read once."""
    content = resources.files(__package__).joinpath("page", file).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind)

    return Route(path, answer, methods=["GET"])


def make_app(served: Served, host: str = "127.0.0.1", turns: Turns | None = None) -> Guard:
    """The application, for any ASGI server.

    Args:
        served: the model.
        host: the address it will listen at.
        turns: how many may use the model at once; one without it.
    """
    model, tokenizer, config = served.model, served.tokenizer, served.model.config
    turns = turns or Turns(1)
    decoder = Decoder(model)

    # The three answers.

    async def about(request: Request) -> Response:
        return JSONResponse(served.about())

    async def generate(request: Request) -> EventStream:
        settings = parse_request(TextRequest, await read_body(request), config)
        ids = prompt_ids(settings.prompt, tokenizer, config)
        return EventStream(completion_events(decoder, tokenizer, ids, settings), turns)

    async def attention(request: Request) -> Response:
        picture = parse_request(AttentionRequest, await read_body(request), config)
        ids, layer = picture.ids, picture.layer
        most = min(MAX_PICTURE, config.max_seq_len)
        if len(ids) > most:
            raise Refused(413, f"Pictures show at most {MAX_PICTURE} tokens.")
        tokens = torch.tensor(ids, device=model.output.weight.device)
        async with turns.one():
            heads = await run_in_threadpool(attention_weights, model, tokens, layer)
        return JSONResponse({"layer": layer, "heads": [triangle(head) for head in heads]})

    # Where they are, and the page.
    routes = [
        Route("/api/model", about, methods=["GET"]),
        Route("/api/generate", generate, methods=["POST"]),
        Route("/api/attention", attention, methods=["POST"]),
    ]
    routes += [page_route(path, *file) for path, file in PAGES.items()]
    handlers = dict.fromkeys((Refused, MinillamaError, HTTPException), answer_error)
    return Guard(Starlette(routes=routes, exception_handlers=handlers), host)


def triangle(weights: torch.Tensor) -> list[list[float]]:
    """Row i of ``weights (seq, seq)`` up to its diagonal, rounded."""
    rows = []
    for i, row in enumerate(weights.tolist(), start=1):
        past = [round(weight, 4) for weight in row[:i]]
        rows.append(past)
    return rows
