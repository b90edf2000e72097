"""The official ``openai`` client against the server: its requests are taken, its types are met."""

import asyncio
import base64
import json
import math
import struct
from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel

from plimsoll.serving.generation import Generation
from tests.serving.http.fake_engine import FakeEngine
from tests.serving.http.live_server import Live, serving
from tests.serving.http.small_text import text_tools

MODEL = "fake/model-1"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def say(generation: Generation) -> str:
    """Answers by what is asked: a constraint, a tool, or the text that was given."""
    prompt = text_tools().decode(generation.prompt)
    schema = json.loads(generation.params.json_schema or "null")
    if schema == {}:
        return '{"any": "object"}'
    if schema is not None and "anyOf" in schema:
        return '{"name": "clock", "arguments": {}}'
    if schema is not None:
        return '{"city": "Oslo"}'
    if "two calls" in prompt:
        one = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
        return "Let me look. " + one + "\n" + one.replace("Oslo", "Rome")
    if "bare call" in prompt:
        return '{"name": "weather", "parameters": {"city": "Oslo"}}'
    return "Grüße, 世界!"


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with serving(FakeEngine(text_tools(), say=say)) as server:
        yield server


@pytest.fixture(scope="module")
def echo() -> Iterator[Live]:
    with serving(FakeEngine(text_tools()), pooling="last") as server:
        yield server


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as given:
        yield given


@pytest.fixture
def echo_client(echo: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{echo.url}/v1", api_key="none", max_retries=0) as given:
        yield given


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "plimsoll"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("other")


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user("hello"))
    choice = answer.choices[0]
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion"
    assert choice.message.content == "Grüße, 世界!" and choice.finish_reason == "stop"
    assert choice.message.tool_calls is None and choice.logprobs is None
    usage = answer.usage
    assert usage.completion_tokens == len("Grüße, 世界!".encode())
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens // 2


def test_the_prompt_is_the_rendered_chat(client: openai.OpenAI, live: Live) -> None:
    client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "developer", "content": "Rhyme."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
        ],
    )
    prompt = text_tools().decode(live.engine.seen[-1].prompt)
    assert (
        prompt == "<s><|turn|>system\nRhyme.<|end|>\n<|turn|>user\nab<|end|>\n<|turn|>assistant\n"
    )


def test_chat_streams_whole_characters(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=user("hello"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [c.choices[0].delta.content for c in chunks if c.choices]
    assert "".join(filter(None, pieces)) == "Grüße, 世界!" and len(pieces) > 5
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 16
    assert len({chunk.id for chunk in chunks}) == 1


def test_async_client(live: Live) -> None:
    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="x") as client:

            async def one() -> str:
                stream = await client.chat.completions.create(
                    model=MODEL, messages=user("hello"), stream=True
                )
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            return await asyncio.gather(*(one() for _ in range(8)))

    assert asyncio.run(main()) == ["Grüße, 世界!"] * 8


def test_choices_have_seeds_of_their_own(echo_client: openai.OpenAI, echo: Live) -> None:
    answer = echo_client.completions.create(
        model=MODEL, prompt=["abcd", "wxyz"], n=2, max_tokens=4, seed=1, temperature=0.5
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == ["bcda", "cdab", "xyzw", "yzwx"]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.usage.prompt_tokens == 8 and answer.usage.completion_tokens == 16
    assert answer.usage.prompt_tokens_details.cached_tokens == 4
    assert [g.params.seed for g in echo.engine.seen[-4:]] == [1, 2, 1, 2]


def test_completion_of_tokens_with_echo_and_stop(echo_client: openai.OpenAI) -> None:
    tokens = text_tools().encode("one, two, three")
    answer = echo_client.completions.create(
        model=MODEL, prompt=tokens, echo=True, max_tokens=50, seed=0, stop=[", th", "never"]
    )
    assert answer.choices[0].text == "one, two, three" + "one, two"
    assert answer.choices[0].finish_reason == "stop"


def test_completion_stream_with_logprobs(echo_client: openai.OpenAI) -> None:
    common = {"model": MODEL, "prompt": "é!", "max_tokens": 3, "seed": 0, "logprobs": 2}
    whole = echo_client.completions.create(**common).choices[0]
    assert whole.text == "é!" and whole.logprobs.tokens == ["\ufffd", "\ufffd", "!"]
    assert whole.logprobs.text_offset == [0, 1, 2]
    assert whole.logprobs.token_logprobs == [-0.5] * 3
    assert [len(top) for top in whole.logprobs.top_logprobs] == [2, 2, 2]
    chunks = list(echo_client.completions.create(**common, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "é!"
    offsets = [at for chunk in chunks for at in chunk.choices[0].logprobs.text_offset]
    assert offsets == [0, 1, 2]


def test_chat_logprobs_carry_bytes(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=user("hello"), logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    assert bytes(b for entry in content for b in entry.bytes).decode() == "Grüße, 世界!"
    assert all(len(entry.top_logprobs) == 3 for entry in content)


def test_vllm_sampling_fields_reach_the_engine(echo_client: openai.OpenAI, echo: Live) -> None:
    extra = {
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "ignore_eos": True,
        "min_tokens": 2,
        "stop_token_ids": [7],
    }
    echo_client.completions.create(
        model=MODEL, prompt="x", max_tokens=3, logit_bias={"9": -3}, extra_body=extra, top_p=0.9
    )
    params = echo.engine.seen[-1].params
    assert (params.top_k, params.min_p, params.top_p) == (5, 0.1, 0.9)
    assert (params.repetition_penalty, params.ignore_eos, params.min_tokens) == (1.1, True, 2)
    assert params.stop_token_ids == (7,) and params.logit_bias == ((9, -3.0),)


def test_tools_are_shown_to_the_model_and_its_calls_read(client: openai.OpenAI, live: Live) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=user("two calls"), tools=[WEATHER]
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Let me look."
    calls = choice.message.tool_calls
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Oslo", "Rome"]
    assert '"name": "weather"' in text_tools().decode(live.engine.seen[-1].prompt)
    again = client.chat.completions.create(
        model=MODEL,
        messages=[
            *user("what is it like?"),
            choice.message,
            {"role": "tool", "tool_call_id": calls[0].id, "content": "sun"},
        ],
        tools=[WEATHER],
    )
    assert again.choices[0].finish_reason == "stop"
    assert '{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>' in text_tools().decode(
        live.engine.seen[-1].prompt
    )


@pytest.mark.parametrize("question", ["two calls", "bare call"])
def test_tool_calls_stream(client: openai.OpenAI, question: str) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=user(question), tools=[WEATHER], parallel_tool_calls=False
    ) as stream:
        for _ in stream:
            pass
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    assert "tool_call>" not in (choice.message.content or "")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", "named", "several"])
def test_forced_tools_are_constrained(
    client: openai.OpenAI, live: Live, choice: str, stream: bool
) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    asked = {
        "model": MODEL,
        "messages": user("hello"),
        "tools": [WEATHER] if choice == "required" else [CLOCK, WEATHER],
        "tool_choice": named if choice == "named" else "required",
    }
    if stream:
        with client.chat.completions.stream(**asked) as events:
            for _ in events:
                pass
            got = events.get_final_completion().choices[0]
    else:
        got = client.chat.completions.create(**asked).choices[0]
    (call,) = got.message.tool_calls
    expected = ("clock", {}) if choice == "several" else ("weather", {"city": "Oslo"})
    assert (call.function.name, json.loads(call.function.arguments)) == expected
    assert got.finish_reason == "tool_calls"
    assert live.engine.seen[-1].params.json_schema


def test_no_tools_are_shown_when_none_may_be_called(client: openai.OpenAI, live: Live) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=user("bare call"), tools=[WEATHER], tool_choice="none"
    )
    assert answer.choices[0].message.tool_calls is None
    assert "weather" not in text_tools().decode(live.engine.seen[-1].prompt)


def test_json_formats(client: openai.OpenAI, live: Live) -> None:
    class City(BaseModel):
        city: str

    parsed = client.chat.completions.parse(
        model=MODEL, messages=user("hello"), response_format=City
    )
    assert parsed.choices[0].message.parsed == City(city="Oslo")
    assert json.loads(live.engine.seen[-1].params.json_schema)["required"] == ["city"]
    answer = client.chat.completions.create(
        model=MODEL, messages=user("hello"), response_format={"type": "json_object"}
    )
    assert json.loads(answer.choices[0].message.content) == {"any": "object"}


def test_embeddings(echo_client: openai.OpenAI) -> None:
    answer = echo_client.embeddings.create(model=MODEL, input=["ab", "c"])
    assert [entry.embedding for entry in answer.data] == [[1.0, 0.0, 0.0]] * 2
    assert answer.usage.prompt_tokens == 3
    mean = {"pooling": "mean", "normalize": False}
    tokens = text_tools().encode("ab")
    raw = echo_client.embeddings.create(
        model=MODEL, input=tokens, encoding_format="float", extra_body=mean
    )
    assert raw.data[0].embedding == [float(sum(tokens)), 2.0, 1.0]
    unit = echo_client.embeddings.create(
        model=MODEL, input=tokens, encoding_format="float", extra_body={"pooling": "mean"}
    )
    assert math.isclose(sum(x * x for x in unit.data[0].embedding), 1.0)
    packed = echo_client.embeddings.with_raw_response.create(
        model=MODEL, input="ab", encoding_format="base64"
    )
    text = json.loads(packed.content)["data"][0]["embedding"]
    assert struct.unpack("<3f", base64.b64decode(text)) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "param", "said"),
    [
        ({"model": "other"}, "model", "does not exist"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"extra_body": {"best_of": 2}}, None, "best_of is not supported"),
        ({"extra_body": {"reasoning_effort": "low"}}, None, "chat_template_kwargs"),
        ({"extra_body": {"tempreature": 1}}, "tempreature", "Unknown field"),
        ({"n": 129}, "n", "less than or equal to 128"),
        ({"max_tokens": 5000}, "messages", "maximum context length is 4096"),
        ({"logit_bias": {"260": 1}}, "logit_bias", "go up to 259"),
        ({"extra_body": {"min_tokens": 9}, "max_tokens": 8}, "min_tokens", "more than the 8"),
        ({"tool_choice": "required"}, None, "needs tools"),
        ({"stop": ""}, "stop", "at least 1"),
        ({"stream_options": {"include_usage": True}}, None, "without stream"),
    ],
)
def test_refusals_say_what_and_where(
    client: openai.OpenAI, changes: dict[str, object], param: str | None, said: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(
            **{"model": MODEL, "messages": user("hello"), **changes}  # type: ignore[arg-type]
        )
    assert caught.value.status_code == (404 if param == "model" else 400)
    assert caught.value.param == param
    assert said in caught.value.message
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


def test_images_are_refused(client: openai.OpenAI) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    with pytest.raises(openai.BadRequestError, match="image_url are not supported"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}])


def test_completion_refusals(client: openai.OpenAI) -> None:
    for extra, said in (
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo with logprobs"),
    ):
        with pytest.raises(openai.BadRequestError, match=said):
            client.completions.create(model=MODEL, prompt="x", **extra)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="x" * 4096)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="go up to 259"):
        client.completions.create(model=MODEL, prompt=[1, 260])
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model=MODEL, input="x", dimensions=2)
