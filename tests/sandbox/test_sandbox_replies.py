"""What a successful call to the sandbox looks like through each SDK."""

from __future__ import annotations

import json
import time

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sdk_clients import PROVIDERS

from arche_magic.sandbox.models import MODELS
from arche_magic.sandbox.schemas import json_for_schema

END = {"groq": "stop", "mistral": "stop", "google": "STOP", "openai": "stop"}
CUT = {"groq": "length", "mistral": "length", "google": "MAX_TOKENS", "openai": "length"}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_reply_says_that_it_is_simulated(shared, connect, provider):
    """A reply begins with the provider and the model, and repeats the question."""
    reply = connect(shared, provider).ask("Why is the sky blue?")
    assert reply.text.startswith(f"*Simulated reply (sandbox, {provider} · ")
    assert "You asked: “Why is the sky blue?”" in reply.text
    assert reply.finish == END[provider]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_stream_gives_the_same_text_and_usage_in_pieces(shared, connect, provider):
    """A streamed reply is the same text in many pieces, with usage as the provider reports it."""
    client = connect(shared, provider)
    options = {"stream_options": {"include_usage": True}} if provider == "openai" else {}
    whole = client.ask()
    streamed = client.read(client.stream(**options))
    assert streamed.text == whole.text
    assert len(streamed.pieces) > 20
    assert streamed.finish == END[provider]
    assert streamed.input_tokens == whole.input_tokens > 0
    assert streamed.output_tokens == whole.output_tokens > 0


def test_groq_stream_adds_a_usage_chunk_when_asked(shared, connect):
    """Groq takes stream_options in the body, and then ends with a chunk of usage and no choices."""
    client = connect(shared, "groq")
    chunks = list(client.stream(extra_body={"stream_options": {"include_usage": True}}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == chunks[-2].x_groq.usage.total_tokens


def test_gemini_counts_thoughts_as_output_and_usage_grows(shared, connect):
    """Gemini's chunks each carry usage so far, thinking tokens included in the total."""
    client = connect(shared, "google")
    usages = [chunk.usage_metadata for chunk in client.stream()]
    totals = [usage.total_token_count for usage in usages]
    assert totals == sorted(totals)
    last = usages[-1]
    assert last.thoughts_token_count == 8
    assert last.total_token_count == last.prompt_token_count + last.candidates_token_count + 8


@pytest.mark.parametrize("provider", PROVIDERS)
def test_same_seed_gives_same_reply(start, connect, provider):
    """The text depends on seed, model and prompt only."""
    first, second, other = start(seed=1), start(seed=1), start(seed=2)
    prompts = [f"Question {n}" for n in range(4)]
    texts = [[connect(s, provider).ask(p).text for p in prompts] for s in (first, second, other)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_max_tokens_cuts_the_reply(shared, connect, provider):
    """A token limit really shortens the text, and the finish reason says so."""
    client = connect(shared, provider)
    name = {"google": "max_output_tokens"}.get(provider, "max_tokens")
    reply = client.ask(**{name: 12})
    assert reply.finish == CUT[provider]
    assert reply.output_tokens == 12
    assert client.ask().text.startswith(reply.text)


def test_gemini_may_spend_all_tokens_on_thinking(shared, connect):
    """With too few output tokens a thinking model returns no text at all."""
    reply = connect(shared, "google").ask(max_output_tokens=5)
    assert (reply.text, reply.finish, reply.output_tokens) == (None, "MAX_TOKENS", 5)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_stop_text_ends_the_reply(shared, connect, provider):
    """Generation ends before a stop text, and counts as finished."""
    client = connect(shared, provider)
    options = {"stop_sequences": ["sky"]} if provider == "google" else {"stop": ["sky"]}
    reply = client.ask(**options)
    assert reply.text.endswith("Why is the ")
    assert reply.finish == END[provider]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_marker_sets_the_length(shared, connect, provider):
    """The last [tokens=N] of a prompt makes a reply of N tokens, quickly."""
    client = connect(shared, provider)
    began = time.process_time()
    reply = client.read(client.stream("Ignore [tokens=9]. Write an essay [tokens=2000]"))
    # The work of both sides; the SDKs do most of it.
    assert time.process_time() - began < 4
    thoughts = 8 if provider == "google" else 0
    if reply.output_tokens is not None:
        assert reply.output_tokens == 2000 + thoughts
    assert len(reply.text.encode()) in range(7_990, 8_001)


@pytest.mark.parametrize("provider", ["groq", "mistral", "openai"])
def test_json_object_reply_is_json(shared, connect, provider):
    """Without a schema, JSON mode returns a JSON object that says it is simulated."""
    reply = connect(shared, provider).ask("Hello in JSON", response_format={"type": "json_object"})
    assert json.loads(reply.text)["simulated"] is True


def test_gemini_takes_its_own_schema_dialect(shared, connect):
    """Gemini's response_schema, with upper-case types, works too."""
    schema = {"type": "OBJECT", "properties": {"answer": {"type": "STRING"}}}
    client = connect(shared, "google")
    reply = client.ask(response_mime_type="application/json", response_schema=schema)
    assert json.loads(reply.text) == {"answer": "simulated answer"}


def test_a_function_may_write_the_replies(start, connect):
    """`reply` gets the model and all messages, and returns the text."""
    sandbox = start(reply=lambda model, messages: f"{model}: {len(messages)} messages")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]
    assert connect(sandbox, "openai").ask(messages).text == "gpt-4.1-mini: 2 messages"


def test_prompt_markup_is_not_rendered(shared, connect):
    """The repeated prompt is one short line whose Markdown is escaped."""
    text = connect(shared, "groq").ask("# Title\n**bold** <b>x</b> " + "long " * 50).text
    echo = text.split("“")[1].split("”")[0]
    assert "\\*\\*bold\\*\\*" in echo
    assert "\n" not in echo
    assert len(echo.replace("\\", "")) == 80
    assert echo.endswith("…")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_models_can_be_listed(shared, connect, provider):
    """Each provider lists the models that the sandbox knows."""
    client = connect(shared, provider)
    listed = client.sdk.models.list()
    found = listed.data if provider != "google" else list(listed)
    names = [m.name.removeprefix("models/") if provider == "google" else m.id for m in found]
    assert names == list(MODELS[provider])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_one_model_can_be_looked_up(shared, connect, provider):
    """Each SDK reads what the provider says about one of its models."""
    models, name = connect(shared, provider).sdk.models, list(MODELS[provider])[-1]
    if provider == "google":
        assert models.get(model=name).name == f"models/{name}"
    else:
        found = models.retrieve(model_id=name) if provider == "mistral" else models.retrieve(name)
        assert found.id == name


SCALARS = st.one_of(
    st.just({"type": "string"}),
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
        st.integers(-50, 50),
        st.integers(0, 20),
    ),
    st.builds(lambda low: {"type": "number", "exclusiveMinimum": low}, st.integers(-5, 5)),
    st.builds(lambda n: {"type": "string", "minLength": n, "maxLength": n + 2}, st.integers(0, 30)),
    st.builds(lambda v: {"enum": v}, st.lists(st.integers() | st.text(), min_size=1, max_size=3)),
    st.builds(lambda v: {"const": v}, st.text()),
)
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.builds(
            lambda fields: {
                "type": "object",
                "properties": fields,
                "required": list(fields),
                "additionalProperties": False,
            },
            st.dictionaries(st.text(min_size=1, max_size=5), inner, max_size=3),
        ),
        st.builds(
            lambda items, n: {"type": "array", "items": items, "minItems": n, "maxItems": n + 1},
            inner,
            st.integers(0, 4),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=2)),
    ),
    max_leaves=8,
)


@given(schema=SCHEMAS, number=st.integers(0, 2**32 - 1))
def test_any_schema_gets_a_valid_value(schema, number):
    """The value is valid for any schema with the supported keywords."""
    jsonschema.validate(json_for_schema(schema, number=number), schema)


def test_a_recursive_schema_gives_a_finite_value():
    """A tree's schema gives a small tree."""
    node = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "children": {"type": "array", "items": {"$ref": "#"}},
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
        "required": ["name", "next"],
    }
    value = json_for_schema(node)
    jsonschema.validate(value, node)
    assert len(json.dumps(value)) < 100_000
