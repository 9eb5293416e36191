"""JSON that fits a schema, and how providers refuse schemas."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest
from sdk_clients import PROVIDERS

SCHEMA = {
    "type": "object",
    "properties": {
        "mood": {"type": "string", "enum": ["calm", "loud"]},
        "place": {"$ref": "#/$defs/Place"},
    },
    "required": ["mood", "place"],
    "additionalProperties": False,
    "$defs": {
        "Place": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
            "additionalProperties": False,
        }
    },
}


def options(provider, schema=SCHEMA, **more):
    """The options that ask each provider for JSON with a schema."""
    if provider == "google":
        return {"response_mime_type": "application/json", "response_json_schema": schema}
    named = {"name": "Review", "schema": schema, **more}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_same_seed_gives_the_same_value(start, connect, provider):
    """The JSON fits the schema, and differs by prompt and seed."""
    texts = {
        (seed, prompt): connect(start(seed=seed), provider).ask(prompt, **options(provider)).text
        for seed in range(4)
        for prompt in ("one", "two")
    }
    for text in texts.values():
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len(set(texts.values())) > 1
    again = connect(start(seed=2), provider).ask("two", **options(provider))
    assert again.text == texts[2, "two"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_list_of_prompts_is_answered_by_id(shared, connect, provider):
    """In a reply to several prompts, each gets the reply that it would get alone."""
    entry = {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "reply": SCHEMA["$defs"]["Place"]},
        "required": ["id", "reply"],
        "additionalProperties": False,
    }
    many = {
        "type": "object",
        "properties": {"replies": {"type": "array", "items": entry}},
        "required": ["replies"],
        "additionalProperties": False,
    }
    prompts = [{"id": number, "prompt": f"Question {number}"} for number in (7, 3, 12)]
    client = connect(shared, provider)
    asked = f"Answer each: {json.dumps(prompts)}"
    replies = json.loads(client.ask(asked, **options(provider, many)).text)["replies"]
    assert [reply["id"] for reply in replies] == [7, 3, 12]
    alone = client.ask("Question 3", **options(provider, SCHEMA["$defs"]["Place"]))
    assert replies[1]["reply"] == json.loads(alone.text)


REFUSALS = {
    "groq": (400, "This model does not support response format `json_schema`. See supported"),
    "mistral": (400, "response_format of type json_schema is not supported"),
    "google": (400, "JSON mode is not enabled for models/"),
    "openai": (400, "'response_format' of type 'json_schema' is not supported with this model."),
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_model_can_refuse_schemas(start, connect, provider):
    """It refuses them in the provider's words, and answers all other requests."""
    sandbox = start()
    sandbox.fail(provider, "no_json_schema", times=None)
    client = connect(sandbox, provider)
    refused = client.refused(**options(provider))
    status, words = REFUSALS[provider]
    assert refused.status == status
    assert words in json.dumps(refused.body)
    assert client.ask("Hello").text
    if provider != "google":
        told = client.ask("Hello in JSON", response_format={"type": "json_object"})
        assert json.loads(told.text)


def broken(path, change):
    """The schema, with a change at one place."""
    schema = copy.deepcopy(SCHEMA)
    node = schema
    for step in path:
        node = node[step]
    change(node)
    return schema


BROKEN = [
    ((), lambda node: node.pop("additionalProperties"), ("", "()"), "additionalProperties"),
    (
        ("$defs", "Place"),
        lambda node: node.update(additionalProperties=True),
        ("/$defs/Place", "('$defs', 'Place')"),
        "additionalProperties",
    ),
    ((), lambda node: node["required"].pop(), ("/required", "()"), "required"),
    (
        ("properties", "mood"),
        lambda node: node.update(minLength=2),
        ("/properties/mood", "('properties', 'mood')"),
        "minLength",
    ),
]


@pytest.mark.parametrize("provider", ["groq", "openai"])
@pytest.mark.parametrize(("path", "change", "places", "word"), BROKEN)
def test_a_strict_schema_that_breaks_a_rule_is_refused(
    shared, connect, provider, path, change, places, word
):
    """A strict schema that breaks a rule is refused. Without `strict`, it is accepted."""
    client = connect(shared, provider)
    schema = broken(path, change)
    refused = client.refused(**options(provider, schema, strict=True))
    error = refused.body["error"]
    assert (refused.status, error["param"]) == (400, "response_format")
    assert "'Review'" in error["message"]
    assert word in error["message"]
    assert places[provider == "openai"] in error["message"]
    assert client.ask(**options(provider, schema)).text
    assert client.ask(**options(provider, SCHEMA, strict=True)).text


@pytest.mark.parametrize("provider", ["groq", "openai"])
def test_json_mode_needs_the_word_json_in_the_prompt(shared, connect, provider):
    """JSON mode requires a prompt that mentions JSON."""
    client = connect(shared, provider)
    refused = client.refused("Hello", response_format={"type": "json_object"})
    assert refused.status == 400
    assert "must contain the word 'json' in some form" in refused.body["error"]["message"]


def test_groq_refuses_to_stream_json(shared, connect):
    """A stream with a response format is refused."""
    client = connect(shared, "groq")
    refused = client.refused(streamed=True, **options("groq"))
    assert refused.body["error"]["message"] == "`response_format` does not support streaming"


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kind", ["not_json", "misfit_json"])
def test_replies_can_break_the_schema(start, connect, provider, kind):
    """This holds with and without streaming. Requests without JSON are answered as usual."""
    sandbox = start()
    sandbox.fail(provider, kind, times=None)
    client = connect(sandbox, provider)
    texts = [client.ask(**options(provider)).text]
    if provider != "groq":
        texts.append(client.read(client.stream(**options(provider))).text)
    for text in texts:
        if kind == "not_json":
            with pytest.raises(ValueError, match="Expecting value"):
                json.loads(text)
        else:
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(json.loads(text), SCHEMA)
    assert client.ask("Hello").text.startswith("*Simulated reply")


@pytest.mark.parametrize("words", ["JSON that fits this JSON Schema", "the following json_schema"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_schema_in_the_system_prompt_is_followed(shared, connect, provider, words):
    """Models without schemas follow a schema in the prompt, in whatever words a library writes."""
    told = f"Reply with {words}:\n{json.dumps(SCHEMA)}"
    client = connect(shared, provider)
    if provider == "google":
        reply = client.ask("Hello", system_instruction=told)
    else:
        turns = [{"role": "system", "content": told}, {"role": "user", "content": "Hello"}]
        reply = client.ask(turns)
    jsonschema.validate(json.loads(reply.text), SCHEMA)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_unusual_schemas_have_values(shared, connect, provider):
    """Schemas that are true or false, and a reference to a name with a slash."""
    schema = {
        "type": "object",
        "properties": {"any": True, "none": False, "place": {"$ref": "#/$defs/a~1b"}},
        "$defs": {"a/b": {"enum": ["Oslo"]}},
    }
    value = json.loads(connect(shared, provider).ask(**options(provider, schema)).text)
    jsonschema.validate(value, schema)
    assert value.keys() == {"any", "place"}


def test_a_schema_without_a_value_in_the_prompt_is_answered(shared, connect):
    """A model replies anyway."""
    endless = {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}}
    told = {"role": "system", "content": f"Reply with JSON schema: {json.dumps(endless)}"}
    reply = connect(shared, "groq").ask([told, {"role": "user", "content": "Hello"}])
    assert "Hello" in json.loads(reply.text)["answer"]


def test_bounds_in_a_description_are_kept(shared, connect):
    """Bounds in descriptions are followed too."""
    fields = {
        "score": {"type": "number", "description": "How good (minimum 0, maximum 0.5)"},
        "tags": {"type": "array", "items": {"type": "string"}, "description": "(minItems 3)"},
        "when": {"anyOf": [{"type": "string", "description": "(format date)"}, {"type": "null"}]},
    }
    schema = {"type": "object", "properties": fields}
    for number in range(9):
        reply = connect(shared, "mistral").ask(f"{number}", **options("mistral", schema))
        value = json.loads(reply.text)
        assert 0 <= value["score"] <= 0.5
        assert len(value["tags"]) == 3
        assert value["when"] == "2026-01-02"
