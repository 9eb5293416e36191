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
    """It works in plain, streamed and chat requests. 0 is sent like any other value."""
    value, places = WIRE[option]
    field, expected = places[name]
    provider, options = get_llm_provider(name), {option: value}
    provider.generate("Hello", **options)
    assert parameters(sandbox)[field] == expected
    list(provider.stream("Hello", **options))
    assert parameters(sandbox)[field] == expected
    provider.generate_chat([{"role": "user", "content": "Hello"}], **options)
    assert parameters(sandbox)[field] == expected


@pytest.mark.parametrize("name", PROVIDERS)
def test_max_output_tokens_is_another_name_for_max_tokens(sandbox: Sandbox, name: str) -> None:
    """Both cut the reply at the same place, and the reply says so, streamed too."""
    provider = get_llm_provider(name)
    one = provider.generate("Hello", max_tokens=12)
    two = provider.generate("Hello", max_output_tokens=12)
    stream = provider.stream("Hello", max_tokens=12)
    assert "".join(stream) == one == two
    assert stream.reply is not None
    for reply in (one, two, stream.reply):
        assert reply.finish_reason == "length"
        assert 0 < reply.usage.output_tokens <= 12


@pytest.mark.parametrize("name", PROVIDERS)
def test_several_stop_texts_are_sent_as_a_list(sandbox: Sandbox, name: str) -> None:
    """The reply ends before the first one that occurs."""
    provider = get_llm_provider(name)
    whole = provider.generate("Hello")
    cut = provider.generate("Hello", stop=["Simulated", "You asked"])
    assert whole.partition("Simulated")[0].strip() == cut.strip()


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("", {}),
        ([{"role": "user"}], {}),
        ("Hello", {"temprature": 0.5}),
        ("Hello", {"temperature": 2.5}),
        ("Hello", {"timeout": 0}),
        ("Hello", {"schema": "score flaot"}),
        ("Hello", {"on_wait": 5}),
        ("Hello", {"tools": 5}),
        ("Hello", {"tools": [5]}),
    ],
)
def test_an_invalid_argument_is_refused_before_anything_is_sent(
    sandbox: Sandbox, prompt: Any, options: dict[str, Any]
) -> None:
    """It is never dropped silently; test_options.py in tests/engine has all messages."""
    with pytest.raises(InvalidRequest):
        get_llm_provider().generate(prompt, **options)
    with pytest.raises(InvalidRequest):
        list(get_llm_provider().stream(prompt, **options))
    assert asked(sandbox) == []


def test_a_parameter_that_a_model_refuses_is_reported(sandbox: Sandbox) -> None:
    """A reasoning model's refusal names the parameter, and no other model is asked."""
    with pytest.raises(InvalidRequest, match=r"does not take .*temperature") as caught:
        get_llm_provider().generate("Hello", model="gpt-5.4-mini", temperature=0.3)
    assert not isinstance(caught.value, NoRouteAvailable)
    assert asked(sandbox) == ["openai"]
