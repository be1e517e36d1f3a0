"""The application, without a network: what it serves, what it says, and what it refuses."""

import json
from collections.abc import Callable, Iterator
from importlib import resources

import pytest
import torch
from serving import CONFIG, JSON, model, small
from starlette.testclient import TestClient

from minillama.apps.serve.app import PAGES, make_app
from minillama.apps.serve.attention_maps import attention_weights
from minillama.apps.serve.guard import HEADERS, host_is_ours, is_loopback
from minillama.apps.serve.request_schemas import MAX_BODY
from minillama.inference import Sampling, generate
from minillama.tokenizer import Tokenizer

HOME = "http://127.0.0.1:8000"
PROMPT = "the old miller"


@pytest.fixture
def client(tokenizer: Tokenizer) -> Iterator[TestClient]:
    with TestClient(make_app(small(tokenizer)), base_url=HOME) as client:
        yield client


def events(client: TestClient, **wish: object) -> list[tuple[str, dict]]:
    """All events of a completion."""
    answer = client.post("/api/generate", json={"prompt": PROMPT, **wish})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in answer.text.rstrip("\n").split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
            for name, data in blocks]  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_the_pages_are_the_packages(path: str, client: TestClient) -> None:
    answer = client.get(path)
    file, kind = PAGES[path]
    assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
    assert answer.content == (resources.files("minillama.apps.serve") / "page" / file).read_bytes()


def test_every_file_of_the_page_is_served() -> None:
    there = {file.name for file in (resources.files("minillama.apps.serve") / "page").iterdir()}
    assert there == {file for file, _ in PAGES.values()}


def test_what_the_page_says_about_the_model(client: TestClient) -> None:
    told = client.get("/api/model").json()
    assert told["name"] == "tiny" and told["context"] == 200 and told["loss"] == 4.5
    assert told["parameters"] == sum(p.numel() for p in model().parameters())
    assert told["limits"]["max_new_tokens"] == [1, 200]


@pytest.mark.parametrize(
    "wish",
    [{"temperature": 0.0}, {"seed": 7}, {"seed": 8, "temperature": 1.5, "top_p": 1.0},
     {"top_k": 5, "temperature": 2.0}, {"prompt": ""}, {"repetition_penalty": 1.5},
     {"prompt": "δέντρο 🦙", "seed": 3}],
    ids=str,
)  # fmt: skip
def test_streams_what_generate_returns(wish: dict, client, tokenizer) -> None:
    wish = {"prompt": PROMPT, "max_new_tokens": 60} | wish
    told = events(client, **wish)
    text = "".join(data["text"] for name, data in told if name == "token")
    prompt = wish.pop("prompt")
    assert text == generate(model(), tokenizer, prompt, **wish)
    assert [piece["id"] for piece in told[0][1]["tokens"]] == tokenizer.encode(prompt, bos=True)


def test_probabilities_are_the_models(client: TestClient, tokenizer: Tokenizer) -> None:
    """One pass over the whole sequence gives the same, whatever the sampling settings are."""
    told = events(client, max_new_tokens=20, temperature=1.7, top_k=9)
    steps = [data for name, data in told if name == "token"]
    prompt = [piece["id"] for piece in told[0][1]["tokens"]]
    ids = prompt + [step["id"] for step in steps]
    with torch.no_grad():
        p = torch.softmax(model()(torch.tensor([ids]))[0].double(), -1)[len(prompt) - 1 : -1]
    for step, expected in zip(steps, p, strict=True):
        assert step["p"] == pytest.approx(float(expected[step["id"]]), abs=2e-5)
        top = [(other["id"], other["p"]) for other in step["top"]]
        values, best = expected.topk(5)
        assert [i for i, _ in top] == best.tolist()
        assert [q for _, q in top] == pytest.approx(values.tolist(), abs=2e-5)


@pytest.fixture
def say(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """All events of a completion with these ids, whatever the model thinks of them."""

    def scripted(ids: list[int], **wish: object) -> list[tuple[str, dict]]:
        left, choose_each = iter(ids), Sampling.choose_each

        def choose(*given: object) -> list[int]:
            choose_each(*given)
            return [next(left)]

        with monkeypatch.context() as patch:
            patch.setattr(Sampling, "choose_each", choose)
            return events(client, **wish)

    return scripted


def test_why_it_ended(tokenizer: Tokenizer, say: Callable) -> None:
    def last(ids: list[int], **wish: object) -> tuple[str, int]:
        name, told = say(ids, **wish)[-1]
        assert name == "end" and told["seconds"] > 0
        return told["reason"], told["tokens"]

    assert last([70] * 9, max_new_tokens=3) == ("length", 3)
    assert last([70, 71, 2, 72]) == ("end", 3)
    long = {"prompt": "old " * 30, "max_new_tokens": 200}
    room = 200 - len(tokenizer.encode(long["prompt"], bos=True)) + 1
    assert 0 < room < 150
    assert last([70] * 200, **long) == ("context", room)


def test_bytes_of_one_character_come_as_one_text(tokenizer: Tokenizer, say: Callable) -> None:
    ids = [tokenizer._byte_ids[byte] for byte in "🦙".encode()]
    told = [data for name, data in say(ids, max_new_tokens=4) if name == "token"]
    assert [data["text"] for data in told] == ["", "", "", "🦙"]
    assert [data["piece"] for data in told] == ["<0xF0>", "<0x9F>", "<0xA6>", "<0x99>"]


def test_weights_that_are_no_numbers(tokenizer: Tokenizer) -> None:
    served = small(tokenizer)
    served.model.output.weight.data.fill_(3e38)  # whose products are infinite
    name, told = events(TestClient(make_app(served), HOME))[-1]
    assert name == "error" and "the model's output is not finite" in told["error"]


def test_pictures(client: TestClient) -> None:
    ids = list(range(3, 12))
    too_many = client.post("/api/attention", json={"ids": [1] * 129, "layer": 0})
    assert too_many.status_code == 413 and "at most 128 tokens" in too_many.json()["error"]
    told = client.post("/api/attention", json={"ids": ids, "layer": 1}).json()
    expected = attention_weights(model(), torch.tensor(ids), 1)
    assert len(told["heads"]) == CONFIG.n_heads
    for head, rows in zip(expected, told["heads"], strict=True):
        assert [len(row) for row in rows] == list(range(1, 10))
        for i, row in enumerate(rows):
            assert row == pytest.approx(head[i, : i + 1].tolist(), abs=6e-5)


def refused(client: TestClient, status: int, words: str, **request: object) -> None:
    answer = client.post("/api/generate", **{"headers": JSON, "content": b"{}"} | request)
    assert answer.status_code == status and words in answer.json()["error"], answer.text


def test_only_json(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        refused(client, 415, "Send JSON", headers={"Content-Type": kind})
    answer = client.post("/api/generate", json={"max_new_tokens": 1}, headers={"Origin": HOME})
    assert answer.status_code == 200
    assert client.get("/api/generate").status_code == 405
    assert client.post("/").json() == {"error": "Method Not Allowed."}


def test_only_so_much(client: TestClient) -> None:
    def parts() -> Iterator[bytes]:
        """Without end, and without a length."""
        while True:
            yield b" " * 10_000

    refused(client, 413, "larger than 256 KiB", content=b" " * (MAX_BODY + 1))
    refused(client, 413, "larger than 256 KiB", content=b"{}",
            headers=JSON | {"Content-Length": "9" * 30})  # fmt: skip
    refused(client, 413, "16,385 characters", content=json.dumps({"prompt": "x" * 16_385}))
    refused(client, 413, "Shorten it", content=json.dumps({"prompt": "word " * 300}))
    refused(client, 400, "temperature must be", content=b'{"temperature": 9}')
    refused(client, 400, "no valid Unicode", content=b'{"prompt": "\\ud800"}')


@pytest.mark.parametrize("method", ["get", "post"])
def test_other_names_and_origins(method: str, client: TestClient) -> None:
    call = getattr(client, method)
    path = {"get": "/", "post": "/api/generate"}[method]
    for host in ("evil.example", "127.0.0.1.evil.example", "192.168.1.5", "", "[::1", "a b"):
        answer = call(path, headers={"Host": host})
        assert answer.status_code == 403 and "host name" in answer.json()["error"]
    foreign = ("http://evil.example", "null", "http://127.0.0.1:9000", "https://evil.example:8000")
    for origin in foreign:
        answer = call(path, headers={"Origin": origin} | JSON)
        assert answer.status_code == 403 and "own page" in answer.json()["error"]


def test_every_answer_guards_the_page(client: TestClient) -> None:
    answers = [client.get("/"), client.get("/nothing"), client.post("/api/generate")]
    answers += [client.get("/", headers={"Host": "x.example"}), client.get("/api/model")]
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert [answer.status_code for answer in answers] == [200, 404, 415, 403, 200]


@pytest.mark.parametrize(
    ("header", "bound", "ours"),
    [
        ("127.0.0.1:8000", "127.0.0.1", True),
        ("LocalHost", "127.0.0.1", True),
        ("[::1]:8000", "::1", True),
        ("evil.example", "127.0.0.1", False),
        ("10.0.0.7:8000", "127.0.0.1", False),
        ("10.0.0.7:8000", "0.0.0.0", True),
        ("lab.example:8000", "0.0.0.0", False),
        ("lab.example:8000", "lab.example", True),
        ("user@evil.example", "lab.example", False),
    ],
)
def test_which_hosts_are_ours(header: str, bound: str, ours: bool) -> None:
    assert host_is_ours(header, bound) == ours


def test_which_addresses_stay_at_home() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.7", "lab.example", "")))
