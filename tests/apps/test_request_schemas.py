"""What a request may hold, field by field."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import CONFIG

from minillama.apps.serve.request_schemas import (
    MAX_BODY,
    MAX_PROMPT,
    Asked,
    Refused,
    limits,
    prompt_ids,
    read_picture_request,
    read_request,
)
from minillama.tokenizer import Tokenizer


def why(body: bytes | str | dict, reader: object = read_request) -> tuple[int, str]:
    """Status and words of a refusal, which is one line."""
    if isinstance(body, dict):
        body = json.dumps(body)
    with pytest.raises(Refused) as refused:
        reader(body if isinstance(body, bytes) else body.encode(), CONFIG)
    assert "\n" not in refused.value.why and refused.value.why.endswith((".", "?"))
    return refused.value.status, refused.value.why


def test_the_defaults_are_within_the_limits() -> None:
    assert read_request(b"{}", CONFIG) == Asked()
    for name, (low, high) in limits(CONFIG).items():
        assert low <= getattr(Asked(), name) <= high
        for value in (low, high):
            assert getattr(read_request(json.dumps({name: value}).encode(), CONFIG), name) == value


@pytest.mark.parametrize(
    "body", ["", "{", "\xff", b"\xff\xfe", "NaN", '{"seed": Infinity}', "[" * 100_000,
             '{"seed": ' + "9" * 5000 + "}"],
)  # fmt: skip
def test_no_json(body: bytes | str) -> None:
    assert why(body) == (400, "The request is not valid JSON.")


@pytest.mark.parametrize("body", ["[]", "null", "3", '"text"'])
def test_no_object(body: str) -> None:
    assert why(body) == (400, "The request must be a JSON object.")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("temperature", -0.1, "temperature must be a number from 0 to 2"),
        ("temperature", 2.1, "from 0 to 2"),
        ("temperature", "1", "must be a number"),
        ("temperature", True, "must be a number"),
        ("temperature", None, "must be a number"),
        ("temperature", 1e400, "not valid JSON"),
        ("top_p", 1.01, "top_p must be a number from 0 to 1"),
        ("top_p", [0.5], "must be a number"),
        ("top_k", 321, "top_k must be a whole number from 0 to 320"),
        ("top_k", 2.5, "a whole number"),
        ("top_k", -1, "from 0"),
        ("max_new_tokens", 0, "max_new_tokens must be a whole number from 1 to 200"),
        ("max_new_tokens", 10**30, "from 1 to 200"),
        ("seed", -1, "seed must be a whole number from 0"),
        ("seed", 2**31, "from 0"),
        ("repetition_penalty", 0.5, "repetition_penalty must be a number from 1 to 2"),
        ("prompt", 3, "prompt must be text"),
        ("prompt", None, "prompt must be text"),
        ("temprature", 1, "There is no setting 'temprature'. Did you mean 'temperature'?"),
        ("__class__", 1, "There is no setting"),
    ],
)
def test_each_field_is_checked(field: str, value: object, words: str) -> None:
    status, said = why({field: value})
    assert status == 400 and words in said


@given(st.dictionaries(st.sampled_from(sorted(Asked.__dataclass_fields__)),
                       st.none() | st.booleans() | st.integers() | st.floats() | st.text()
                       | st.lists(st.integers())))  # fmt: skip
def test_whatever_is_read_is_in_range(fields: dict) -> None:
    try:
        asked = read_request(json.dumps(fields).encode(), CONFIG)
    except Refused:
        return
    for name, (low, high) in limits(CONFIG).items():
        assert low <= getattr(asked, name) <= high


def test_long_prompts(tokenizer: Tokenizer) -> None:
    status, said = why({"prompt": "x" * (MAX_PROMPT + 1)})
    assert (status, said) == (413, "The prompt has 16,385 characters; at most 16,384 are read.")
    longest = json.dumps({"prompt": "\U0001f999" * MAX_PROMPT})  # twelve bytes each, escaped
    assert len(longest) <= MAX_BODY
    asked = read_request(longest.encode(), CONFIG)
    with pytest.raises(Refused, match="but this model's context holds 200. Shorten it."):
        prompt_ids(asked, tokenizer, CONFIG)
    ids = prompt_ids(Asked("the old miller"), tokenizer, CONFIG)
    assert ids == tokenizer.encode("the old miller", bos=True)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "has the fields ids and layer"),
        ({"ids": [1], "layer": 0, "more": 1}, 400, "has the fields"),
        ({"ids": [], "layer": 0}, 400, "a list of token ids"),
        ({"ids": "12", "layer": 0}, 400, "a list of token ids"),
        ({"ids": [1, 320], "layer": 0}, 400, "Each of ids must be a whole number from 0 to 319"),
        ({"ids": [1, True], "layer": 0}, 400, "Each of ids"),
        ({"ids": [1, -1], "layer": 0}, 400, "Each of ids"),
        ({"ids": [1], "layer": 2}, 400, "layer must be a whole number from 0 to 1"),
        ({"ids": [1], "layer": "0"}, 400, "layer must be"),
        ({"ids": [1] * 129, "layer": 0}, 413, "at most 128 tokens"),
    ],
)
def test_pictures(body: dict, status: int, words: str) -> None:
    said = why(body, read_picture_request)
    assert said[0] == status and words in said[1]
    assert read_picture_request(b'{"ids": [1, 319], "layer": 1}', CONFIG) == ([1, 319], 1)
