"""``minillama serve``: load a model, take a port, and answer until Ctrl-C."""

import socket
import warnings
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from tyro.conf import Positional

from minillama.apps.serve.app import Served, Turns, make_app
from minillama.apps.serve.guard import Guard, is_loopback
from minillama.errors import ConfigError, DataError
from minillama.interop import formats
from minillama.train.checkpoint import last_good, load_model
from minillama.train.log import read_metrics


def serve(
    run: Positional[Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    at_once: int = 1,
    step: int | None = None,
    max_seq_len: int = 2048,
) -> None:
    """Show a model on a web page of this machine, until Ctrl-C.

    Args:
        run: the run folder, or a model in another format that `minillama convert` reads.
        host: the address to listen at; others than loopback let other machines in.
        port: the port to listen at; 0 takes any free one.
        at_once: completions at the same time; more wait in a short queue.
        step: the checkpoint of a run; the last by default.
        max_seq_len: the context length, which Meta's format does not tell.

    Raises:
        ConfigError: a setting is out of range, or the port is taken.
        CheckpointError: no such model.
    """
    if at_once < 1:
        raise ConfigError(f"at_once = {at_once}", "answer at least one request at a time")
    with listen(host, port) as listener:
        served = load(run, step, max_seq_len)
        if not is_loopback(host):
            warnings.warn(f"{host} lets other machines use this page", stacklevel=2)
        turns = Turns(at_once)
        server = Server(make_app(served, host, turns), turns)
        print(f"{served.name} is at {address(listener)} (Ctrl-C ends)", flush=True)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    print("\nended")


class Server(uvicorn.Server):
    """A server that Ctrl-C ends after the token under way; a second Ctrl-C ends it at once."""

    def __init__(self, app: Guard, turns: Turns) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=64,
            timeout_graceful_shutdown=10,
        )
        super().__init__(config)
        self.turns = turns

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Answer a signal."""
        self.turns.over = True
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at ``host`` and ``port``. Raises ``ConfigError``."""
    family = socket.AF_INET
    if ":" in host:
        family = socket.AF_INET6
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "choose another --host, or a --port from 1024 to 65535 that is free"
        raise ConfigError(f"cannot listen at {host}, port {port}: {reason}", hint) from None


def address(listener: socket.socket) -> str:
    """The address to type into a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def load(source: Path, step: int | None = None, max_seq_len: int = 2048) -> Served:
    """The model of a folder, with what its training tells about it. Raises ``CheckpointError``."""
    name = source.resolve().name
    found = formats.load(source, max_seq_len)
    if found:
        return Served(*found, name)
    if step is None:
        step = last_good(source)
    model, tokenizer = load_model(source, step)
    return Served(model, tokenizer, name, facts(source, step))


def facts(run: Path, step: int | None) -> dict[str, Any]:
    """The last validation of a run up to ``step``: ``step``, ``loss`` and ``bpb``."""
    try:
        records = read_metrics(run)
    except DataError:  # weights are enough to complete text
        return {}
    for record in reversed(records):
        if "valid_loss" in record and record["step"] <= step:
            loss, bpb = record["valid_loss"], record["valid_bpb"]
            return {"step": record["step"], "loss": loss, "bpb": bpb}
    return {}
