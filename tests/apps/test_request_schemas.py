"""What a request may hold, field by field."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import CONFIG

from minillama.apps.serve.request_schemas import (
    MAX_BODY,
    MAX_PROMPT,
    AttentionRequest,
    Refused,
    TextRequest,
    limits,
    parse_request,
    prompt_ids,
)
from minillama.tokenizer import Tokenizer


def read_request(body: bytes | str | dict, schema: type = TextRequest) -> object:
    if isinstance(body, dict):
        body = json.dumps(body)
    return parse_request(schema, body if isinstance(body, bytes) else body.encode(), CONFIG)


def why(body: bytes | str | dict, schema: type = TextRequest) -> tuple[int, str]:
    """Status and words of a refusal, which is one line."""
    with pytest.raises(Refused) as refused:
        read_request(body, schema)
    message = refused.value.message
    assert "\n" not in message and message.endswith((".", "?"))
    return refused.value.status, message


def test_the_defaults_are_within_the_limits() -> None:
    assert read_request("{}") == TextRequest()
    for name in TextRequest.__dataclass_fields__.keys() & limits(CONFIG):
        low, high = limits(CONFIG)[name]
        assert low <= getattr(TextRequest(), name) <= high
        for value in (low, high):
            assert getattr(read_request({name: value}), name) == value


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


@given(st.dictionaries(st.sampled_from(sorted(TextRequest.__dataclass_fields__)),
                       st.none() | st.booleans() | st.integers() | st.floats() | st.text()
                       | st.lists(st.integers())))  # fmt: skip
def test_whatever_is_read_is_in_range(fields: dict) -> None:
    try:
        request = read_request(fields)
    except Refused:
        return
    for name in TextRequest.__dataclass_fields__.keys() & limits(CONFIG):
        low, high = limits(CONFIG)[name]
        assert low <= getattr(request, name) <= high


def test_long_prompts(tokenizer: Tokenizer) -> None:
    longest = {"prompt": "\U0001f999" * MAX_PROMPT}  # twelve bytes each, escaped
    assert len(json.dumps(longest)) <= MAX_BODY
    prompt = read_request(longest).prompt
    for text, words in ((prompt + "x", "16,385 characters"), (prompt, "context holds 200")):
        with pytest.raises(Refused, match=words) as refused:
            prompt_ids(text, tokenizer, CONFIG)
        assert refused.value.status == 413
    ids = prompt_ids("the old miller", tokenizer, CONFIG)
    assert ids == tokenizer.encode("the old miller", bos=True)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "must have the fields ids, layer"),
        ({"ids": [1]}, "must have the fields ids, layer"),
        ({"ids": [1], "layer": 0, "more": 1}, "There is no setting 'more'"),
        ({"ids": [], "layer": 0}, "ids must be a list"),
        ({"ids": "12", "layer": 0}, "ids must be a list"),
        ({"ids": [1, 320], "layer": 0}, "Each of ids must be a whole number from 0 to 319"),
        ({"ids": [1, True], "layer": 0}, "Each of ids"),
        ({"ids": [1, -1], "layer": 0}, "Each of ids"),
        ({"ids": [1], "layer": 2}, "layer must be a whole number from 0 to 1"),
        ({"ids": [1], "layer": "0"}, "layer must be"),
    ],
)
def test_pictures(body: dict, words: str) -> None:
    status, message = why(body, AttentionRequest)
    assert status == 400 and words in message
    ids = {"ids": [1, 319], "layer": 1}
    assert read_request(ids, AttentionRequest) == AttentionRequest(**ids)
