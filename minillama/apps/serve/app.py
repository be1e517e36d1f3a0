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

from minillama.apps.serve import request_schemas
from minillama.apps.serve.attention_maps import attention_weights
from minillama.apps.serve.events import Event, completion
from minillama.apps.serve.guard import Guard
from minillama.apps.serve.request_schemas import Refused
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
        """The model and the limits of what it may be asked."""
        config = self.model.config
        return {
            "name": self.name,
            "parameters": config.num_parameters(),
            "layers": config.n_layers,
            "heads": config.n_heads,
            "context": config.max_seq_len,
            "vocabulary": config.vocab_size,
            "picture_tokens": request_schemas.MAX_PICTURE,
            "limits": request_schemas.limits(config),
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


class Told:
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
        for name, told in self.events:
            if self.turns.over:
                return
            yield f"event: {name}\ndata: {json.dumps(told)}\n\n"


def refuse(refused: Refused) -> JSONResponse:
    """A refusal as JSON; a page that is told 503 may come again."""
    headers = {"Retry-After": "2"} if refused.status == 503 else None
    return JSONResponse({"error": refused.why}, refused.status, headers)


async def body_of(request: Request) -> bytes:
    """The JSON body of a request, never more than ``MAX_BODY`` of it. Raises ``Refused``."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # what no form of another site can send
        raise Refused(415, "Send JSON, with the content type application/json.")
    too_large = Refused(413, f"The request is larger than {request_schemas.MAX_BODY // 1024} KiB.")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > request_schemas.MAX_BODY:
        raise too_large
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > request_schemas.MAX_BODY:
            raise too_large
    return bytes(body)


def page(file: str, kind: str) -> Any:
    """An endpoint for one file of the package, which is read once."""
    content = resources.files(__package__).joinpath("page", file).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


def make_app(served: Served, host: str = "127.0.0.1", turns: Turns | None = None) -> Guard:
    """The application, for any ASGI server.

    Args:
        served: the model.
        host: the address it will listen at.
        turns: how many may use the model at once; one without it.
    """
    model, tokenizer, config = served.model, served.tokenizer, served.model.config
    turns, decoder = turns or Turns(1), Decoder(model)

    async def about(request: Request) -> Response:
        return JSONResponse(served.about())

    async def generate(request: Request) -> Told:
        wish = request_schemas.read_request(await body_of(request), config)
        ids = request_schemas.prompt_ids(wish, tokenizer, config)
        return Told(completion(decoder, tokenizer, ids, wish), turns)

    async def attention(request: Request) -> Response:
        ids, layer = request_schemas.read_picture_request(await body_of(request), config)
        tokens = torch.tensor(ids, device=model.output.weight.device)
        async with turns.one():
            weights = await run_in_threadpool(attention_weights, model, tokens)
        rows = [[head[i, : i + 1].tolist() for i in range(len(ids))] for head in weights[layer]]
        rounded = [[[round(w, 4) for w in row] for row in head] for head in rows]
        return JSONResponse({"layer": layer, "heads": rounded})

    async def told_refusal(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = Refused(error.status_code, f"{error.detail}.")
        if isinstance(error, MinillamaError):
            error = Refused(400, str(error))
        return refuse(error)

    routes = [Route(path, page(*file), methods=["GET"]) for path, file in PAGES.items()]
    routes += [
        Route("/api/model", about, methods=["GET"]),
        Route("/api/generate", generate, methods=["POST"]),
        Route("/api/attention", attention, methods=["POST"]),
    ]
    kinds = (Refused, MinillamaError, HTTPException)
    handlers = dict.fromkeys(kinds, told_refusal)
    return Guard(Starlette(routes=routes, exception_handlers=handlers), host)
