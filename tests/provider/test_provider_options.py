"""How the options of `generate` are sent to each provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from provider_parts import PROVIDERS, asked

from arche_magic.llm_providers import InvalidRequest, NoRouteAvailable, get_llm_provider

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arche_magic.sandbox import Sandbox

# Option, value, and for each provider the parameter and its value if that differs.
WIRE: dict[str, tuple[Any, dict[str, tuple[str, Any]]]] = {
    "max_tokens": (
        40,
        {
            "groq": ("max_completion_tokens", 40),
            "mistral": ("max_tokens", 40),
            "google": ("maxOutputTokens", 40),
            "openai": ("max_completion_tokens", 40),
        },
    ),
    "temperature": (0, dict.fromkeys(PROVIDERS, ("temperature", 0))),
    "top_p": (
        0.5,
        {**dict.fromkeys(PROVIDERS, ("top_p", 0.5)), "google": ("topP", 0.5)},
    ),
    "stop": (
        "END",
        {**dict.fromkeys(PROVIDERS, ("stop", ["END"])), "google": ("stopSequences", ["END"])},
    ),
    "seed": (
        7,
        {**dict.fromkeys(PROVIDERS, ("seed", 7)), "mistral": ("random_seed", 7)},
    ),
}


def parameters(sandbox: Sandbox) -> Mapping[str, Any]:
    """The parameters of the last request; Gemini's are in a part of the body."""
    request = sandbox.requests[-1]
    body = request.body
    found: Mapping[str, Any] = body.get("generationConfig", {})
    return found if request.provider == "google" else body


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("option", WIRE)
def test_an_option_is_sent_under_the_providers_name(
    sandbox: Sandbox, option: str, name: str
) -> None:
    """Plain and streamed; 0 is sent like any other value."""
    value, places = WIRE[option]
    field, expected = places[name]
    provider = get_llm_provider(name)
    provider.generate("Hello", **{option: value})
    assert parameters(sandbox)[field] == expected
    list(provider.stream("Hello", **{option: value}))
    assert parameters(sandbox)[field] == expected


@pytest.mark.parametrize("name", PROVIDERS)
def test_options_that_are_not_set_are_not_sent(sandbox: Sandbox, name: str) -> None:
    """The provider's defaults apply."""
    get_llm_provider(name).generate("Hello")
    sent = set(parameters(sandbox))
    assert not sent & {field for _, places in WIRE.values() for field, _ in places.values()}


@pytest.mark.parametrize("name", PROVIDERS)
def test_max_output_tokens_is_another_name_for_max_tokens(sandbox: Sandbox, name: str) -> None:
    """Both cut the reply at the same place, and the reply says so."""
    provider = get_llm_provider(name)
    one = provider.generate("Hello", max_tokens=12)
    two = provider.generate("Hello", max_output_tokens=12)
    assert one == two
    assert one.finish_reason == two.finish_reason == "length"
    assert one.usage.output_tokens <= 12
    with pytest.raises(InvalidRequest, match="the same option"):
        provider.generate("Hello", max_tokens=12, max_output_tokens=13)


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_system_option_is_the_first_message(sandbox: Sandbox, name: str) -> None:
    """Gemini has a separate field for it."""
    get_llm_provider(name).generate("Hello", system="Answer in French.")
    body = sandbox.requests[-1].body
    if name == "google":
        assert body["systemInstruction"]["parts"] == [{"text": "Answer in French."}]
        assert len(body["contents"]) == 1
    else:
        assert body["messages"][0] == {"role": "system", "content": "Answer in French."}
        assert body["messages"][1] == {"role": "user", "content": "Hello"}


@pytest.mark.parametrize("name", PROVIDERS)
def test_several_stop_texts_are_sent_as_a_list(sandbox: Sandbox, name: str) -> None:
    """The reply ends before the first one that occurs."""
    provider = get_llm_provider(name)
    whole = provider.generate("Hello")
    cut = provider.generate("Hello", stop=["Simulated", "You asked"])
    assert whole.partition("Simulated")[0].strip() == cut.strip()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temprature": 0.5}, "unknown option 'temprature'; did you mean 'temperature'"),
        ({"temperature": 2.5}, "temperature is 2.5; it must be 0 to 2"),
        ({"temperature": "hot"}, "must be a number"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be 1 or more"),
        ({"max_tokens": 1.5}, "must be a whole number"),
        ({"top_p": -1}, "top_p is -1"),
        ({"stop": [1]}, "stop must be"),
        ({"patience": -1}, "patience is -1"),
        ({"timeout": 0}, "timeout is 0"),
        ({"model": 5}, "model is of type int; it must be text"),
    ],
)
def test_an_invalid_option_is_refused_by_name(
    sandbox: Sandbox, options: dict[str, Any], words: str
) -> None:
    """Before anything is sent; it is never dropped silently."""
    with pytest.raises(InvalidRequest, match=words):
        get_llm_provider().generate("Hello", **options)
    assert asked(sandbox) == []


@pytest.mark.parametrize(
    "prompt", ["", "  \n", None, 5, [], [{"role": "user"}], [{"content": "x"}]]
)
def test_an_empty_prompt_is_refused(sandbox: Sandbox, prompt: Any) -> None:
    """No quota is used."""
    with pytest.raises(InvalidRequest):
        get_llm_provider().generate(prompt)
    with pytest.raises(InvalidRequest):
        list(get_llm_provider().stream(prompt))
    assert asked(sandbox) == []


def test_a_parameter_that_a_model_refuses_is_reported(sandbox: Sandbox) -> None:
    """A reasoning model's refusal names the parameter, and no other model is asked."""
    with pytest.raises(InvalidRequest, match=r"does not take .*temperature") as caught:
        get_llm_provider().generate("Hello", model="gpt-5.4-mini", temperature=0.3)
    assert not isinstance(caught.value, NoRouteAvailable)
    assert asked(sandbox) == ["openai"]
