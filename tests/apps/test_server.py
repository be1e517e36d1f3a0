"""A real server: paths as they come over the wire, turns, clients that leave, and Ctrl-C."""

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import CONFIG, Pace, model, serving, small
from tiny import ROOT, TinyCorpus, tiny_config

from minillama.apps.cli import main
from minillama.apps.serve.app import Turns
from minillama.apps.serve.request_schemas import Refused
from minillama.apps.serve.start import Server, listen, load
from minillama.config import ModelConfig
from minillama.errors import ConfigError
from minillama.interop import huggingface, meta
from minillama.model import Llama
from minillama.tokenizer import Tokenizer
from minillama.train.loop import train

LONG = {"prompt": "the", "max_new_tokens": 190, "top_p": 1.0, "temperature": 1.0}


@pytest.fixture(scope="module")
def home(tokenizer: Tokenizer) -> Iterator[str]:
    with serving(small(tokenizer)) as address:
        yield address


def raw(address: str, request: bytes) -> tuple[int, bytes]:
    """Status and body of an answer to these bytes, which nobody has tidied up."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as wire:
        wire.sendall(request)
        answer = b""
        while part := wire.recv(65_536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    "path",
    ["/app.py", "/page/index.html", "/index.html", "/../app.py", "/..%2fapp.py", "/%2e%2e/app.py",
     "/page.css/../../app.py", "//etc/passwd", "/%2fetc%2fpasswd", "/..\\app.py", "/page.js%00",
     "/.", "/page.css/", "/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc/passwd", "/api/model/../../app.py",
     "/page/../page.css"],
)  # fmt: skip
def test_only_its_own_pages(path: str, home: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    status, body = raw(home, request.encode())
    assert status in (307, 404)  # 307: to the same path without its last slash
    assert b"import" not in body and b"root:" not in body and b"font" not in body
    fine = request.replace(path, "/page.css", 1)
    assert raw(home, fine.encode())[0] == 200


def test_no_host_and_two_hosts(home: str) -> None:
    assert raw(home, b"GET / HTTP/1.0\r\n\r\n")[0] == 403
    two = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert raw(home, two)[0] == 400


def test_one_at_a_time_then_busy(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    Pace(monkeypatch)
    with serving(small(tokenizer), Turns(1, queue=1, patience=0.4)) as home:
        with httpx.stream("POST", f"{home}/api/generate", json=LONG, timeout=20) as first:
            lines = first.iter_lines()
            assert next(lines) == "event: prompt"
            began = time.monotonic()
            answers: list[httpx.Response] = []
            ask = lambda: answers.append(  # noqa: E731
                httpx.post(f"{home}/api/generate", json=LONG, timeout=20)
            )
            waiting = threading.Thread(target=ask)
            waiting.start()
            while not answers and time.monotonic() - began < 0.2:
                time.sleep(0.01)
            about = httpx.get(f"{home}/api/model")  # the rest of the server answers meanwhile
            assert about.status_code == 200
            ids = {"ids": [1, 5], "layer": 0}
            assert httpx.post(f"{home}/api/attention", json=ids).status_code == 503
            waiting.join(10)
            (second,) = answers
            assert second.status_code == 503 and second.headers["retry-after"]
            assert "busy" in second.json()["error"]
            assert next(lines).startswith("data: ")
        free = httpx.post(f"{home}/api/generate", json=LONG | {"max_new_tokens": 2}, timeout=20)
        assert free.status_code == 200 and "event: end" in free.text


def test_a_client_that_leaves_stops_the_model(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace = Pace(monkeypatch)
    with serving(small(tokenizer), Turns(1, queue=0)) as home:
        with httpx.stream("POST", f"{home}/api/generate", json=LONG, timeout=20) as answer:
            lines = (line for line in answer.iter_lines() if line == "event: token")
            for _ in range(3):
                next(lines)
        until = time.monotonic() + 10
        wish = LONG | {"max_new_tokens": 1}
        while httpx.post(f"{home}/api/generate", json=wish).status_code == 503:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert 3 <= pace.choices < 150  # of 190
        before = pace.choices
        time.sleep(5 * pace.pause)
        assert pace.choices == before


def test_turns() -> None:
    """Two at once, one waits and comes next; the fourth is refused, a place is never lost."""

    async def play() -> list[str]:
        turns, story = Turns(2, queue=1, patience=0.05), []
        first, second = turns.one(), turns.one()
        await first.__aenter__()
        await second.__aenter__()

        async def third() -> None:
            try:
                async with turns.one():
                    story.append("third")
            except Refused as refused:
                story.append(str(refused.status))

        waits = asyncio.create_task(third())
        await asyncio.sleep(0)
        await third()  # the queue is full
        await first.__aexit__(None, None, None)
        await waits
        async with turns.one():
            await third()  # nobody makes room in time
        await second.__aexit__(None, None, None)
        await third()
        return story

    assert asyncio.run(play()) == ["503", "third", "503", "third"]


def test_folders_in_other_formats(tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = model()
    meta.save(made, tokenizer, tmp_path / "meta")
    huggingface.save(made, tokenizer, tmp_path / "exported")
    for folder, context in (("meta", 77), ("exported", CONFIG.max_seq_len)):
        served = load(tmp_path / folder, max_seq_len=77)
        about = served.about()
        assert (about["name"], about["context"]) == (folder, context) and "loss" not in about
        assert about["parameters"] == CONFIG.num_parameters()


@pytest.fixture(scope="module")
def run(tiny_corpus: TinyCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    train(tiny_config(tiny_corpus.folder, runs))
    return runs / "run"


def test_a_run_tells_its_loss(run: Path, tmp_path: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    valid = {r["step"]: r["valid_loss"] for r in records if "valid_loss" in r}
    assert sorted(valid) == [1, 6, 12]
    assert load(run).facts["loss"] == valid[12]
    assert load(run, step=9).facts | {"bpb": 0} == {"step": 6, "loss": valid[6], "bpb": 0}
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "metrics.jsonl").unlink()
    assert load(copy).facts == {} and load(copy).name == "copy"


def test_mistakes_take_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: object) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["serve", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert (ended.value.code, out) == (1, "") and err.count("\n") == 1, err
        return err

    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}: Address already in use" in told(run, "--port", port)
    assert "has no checkpoints" in told(tmp_path / "nothing", "--port", 0)
    assert "port 70000: " in told(run, "--port", 70_000)
    assert "port -1: " in told(run, "--port", -1)
    assert "at no.such.host.invalid, port 8000: " in told(run, "--host", "no.such.host.invalid")
    assert "at_once = 0" in told(run, "--at-once", 0)
    with pytest.raises(ConfigError, match="cannot listen at 192.0.2.1"):  # nobody's address
        listen("192.0.2.1", 0)


@pytest.fixture(scope="module")
def large(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that is busy for many seconds with one completion."""
    folder = tmp_path_factory.mktemp("folders") / "large"
    size = {"dim": 512, "n_layers": 12, "n_heads": 8, "multiple_of": 32, "max_seq_len": 2000}
    huggingface.save(Llama(ModelConfig(vocab_size=320, **size)).bfloat16(), tokenizer, folder)
    return folder


def test_the_command_until_ctrl_c(large: Path) -> None:
    """It says where it is, and ends cleanly in the middle of a completion."""
    server = subprocess.Popen(
        [sys.executable, "-m", "minillama", "serve", str(large), "--port", "0"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        said = server.stdout.readline()
        assert said.startswith("large is at http://127.0.0.1:")
        home = said.split()[3]
        assert httpx.get(f"{home}/api/model").json()["name"] == "large"
        wish = {"max_new_tokens": 2000, "temperature": 0.0}
        with httpx.stream("POST", f"{home}/api/generate", json=wish, timeout=20) as answer:
            lines = answer.iter_lines()
            assert "event: token" in (next(lines) for _ in range(10))
            server.send_signal(signal.SIGINT)
            assert list(lines).count("event: token") < 1500
            out, err = server.communicate(timeout=20)
    finally:
        server.kill()
    assert (server.returncode, out, err) == (0, "\nended\n", "")


def test_other_machines_are_let_in_with_a_warning(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Server, "run", lambda self, sockets: None)
    for flags, warned in [
        ([], ""),
        (["--host", "0.0.0.0"], "warning: 0.0.0.0 lets other machines use this page\n"),
    ]:
        main(["serve", str(run), "--port", "0", *flags])
        out, err = capsys.readouterr()
        assert out.startswith("run is at http://") and err == warned
