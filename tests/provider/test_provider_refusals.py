"""Whatever a server answers, a request ends after a few calls, and each is counted.

The bodies are from recordings, reports and documentation of 2024 to 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from provider_parts import PROVIDERS, Clock
from refusing_server import Received, RefusingServer, completion, refusing_server

import arche_magic
from arche_magic.bulk import JobStopped
from arche_magic.llm_providers import (
    IntelligentLLMOrchestrator,
    InvalidRequest,
    LLMProviderError,
    NoRouteAvailable,
    get_llm_provider,
    get_quota_tracker,
)
from arche_magic.llm_providers.config import get_configuration, use_configuration
from arche_magic.llm_providers.doctor import check_keys, examine
from arche_magic.llm_providers.request import Image
from arche_magic.notebook.catalog_tables import models

PATHS = {"groq": "", "mistral": "", "google": "", "openai": "/v1"}
VARIABLES = {name: f"{name.upper()}_BASE_URL" for name in PROVIDERS}
VARIABLES["google"] = "GOOGLE_GEMINI_BASE_URL"
INVALID = "invalid_request_error"
SERVER = '[providers.my-server]\nbase_url = "{url}/v1"\nmodels = ["m"]\n'
PICTURE = Image("image/png", b"\x89PNG")
Use = Callable[..., Clock]


@pytest.fixture
def script() -> Iterator[RefusingServer]:
    """A separate server for each test, because an address remembers what it refused."""
    with refusing_server() as script:
        yield script


@pytest.fixture
def use(script: RefusingServer, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Configure these providers at the server, with a clock that moves only while sleeping.

    With `healthy`, another provider answers every request. `table` is added to `arche_magic.toml`.
    """

    def begin(*providers: str, healthy: bool = True, table: str = "") -> Clock:
        for name in providers:
            monkeypatch.setenv(f"{name.upper()}_API_KEY", f"{name}-key-for-this-test")
            monkeypatch.setenv(VARIABLES[name], script.url + PATHS[name])
        if healthy:
            table += '[providers.healthy]\nmodels = ["well"]\n'
            table += f'base_url = "{script.url}/healthy/v1"\n'
        Path("arche_magic.toml").write_text(table)
        use_configuration(None)
        use_configuration(replace(get_configuration(), clock=clock))
        return clock

    return begin


def answers(script: RefusingServer, status: int, body: Any) -> None:
    script.answer = lambda request: (status, body)


def error(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


def google(status: str, message: str, *reasons: str) -> dict[str, Any]:
    kind = "type.googleapis.com/google.rpc.ErrorInfo"
    details = [{"@type": kind, "reason": reason} for reason in reasons]
    return {"error": {"code": 0, "message": message, "status": status, "details": details}}


LONG = "Please reduce the length of the messages or completion."
FORMAT = "'response_format.type' must be 'json_schema' or 'text'"
NOT_FOUND = "The model `x` does not exist or you do not have access to it."
OPENAI_LIKE: dict[str, tuple[int, Any]] = {
    "model": (404, error(NOT_FOUND, type=INVALID, code="model_not_found")),
    "no url": (404, error("Unknown request URL: POST /x", type=INVALID, code="unknown_url")),
    "a page": (404, "<html><title>404 Not Found</title></html>"),
    "firewall": (403, "<html><title>Attention Required! | Cloudflare</title></html>"),
    "words about formats": (400, error(FORMAT, type=INVALID)),
    "other words about formats": (400, error("json_object is not supported here")),
    "unknown format": (422, error("Unknown parameter: 'response_format'", type=INVALID)),
    "format with a field": (
        400,
        error(FORMAT, type=INVALID, param="response_format", code="unsupported_value"),
    ),
    "format, 404": (404, error("json_schema is not supported by this route")),
    "format, 500": (500, error("response_format json_schema is not implemented")),
    "temperature": (
        400,
        error("Unsupported value", type=INVALID, param="temperature", code="unsupported_value"),
    ),
    "max_tokens": (
        400,
        error(
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            type=INVALID,
            param="max_tokens",
            code="unsupported_parameter",
        ),
    ),
    "no reason": (400, error("", type=INVALID)),
    "nothing": (400, ""),
    "no images": (404, error("No endpoints found that support image input", code=404)),
}
BODIES: dict[str, dict[str, tuple[int, Any]]] = {
    "groq": OPENAI_LIKE
    | {
        "retired": (400, error("has been decommissioned", code="model_decommissioned")),
        "context": (400, error(LONG, type=INVALID, param="messages")),
        "tool call": (400, error("Failed", code="tool_use_failed", failed_generation="")),
        "JSON broken": (400, error("Failed", code="json_validate_failed")),
        "output broken": (400, error("Failed", code="output_parse_failed")),
        "banned": (400, error("restricted", code="organization_restricted")),
        "network": (403, error("Access denied. Please check your network settings.")),
        "unprocessable": (422, error("no", type=INVALID)),
    },
    "openai": OPENAI_LIKE
    | {
        "country": (403, error("no", code="unsupported_country_region_territory")),
        "model, 400": (400, error("no", type=INVALID, code="model_not_found")),
        "deprecated": (404, error("The model `x` has been deprecated", code="model_not_found")),
        "context": (400, error("long", type=INVALID, code="context_length_exceeded")),
        "unknown": (400, error("no", type=INVALID, param="seed", code="unknown_parameter")),
    },
    "mistral": {
        "context": (400, {"type": "invalid_request_invalid_args", "code": "3051"}),
        "order": (400, {"type": "invalid_request_message_order", "code": "3230"}),
        "model": (400, {"type": "invalid_model", "code": "1500", "message": "Invalid model: x"}),
        "plan": (403, {"type": "tier_not_allowed", "code": "1910"}),
        "validation": (422, {"detail": [{"type": "x", "loc": ["body", "top_p"], "msg": "no"}]}),
        "format": (
            422,
            {
                "message": {
                    "detail": [{"type": "x", "loc": ["body", "response_format", "type"], "msg": ""}]
                }
            },
        ),
        "words about formats": (400, {"message": FORMAT, "code": "3000"}),
        "address": (404, {"message": "no Route matched with those values"}),
        "page": (403, "<html>blocked</html>"),
    },
    "google": {
        "key": (400, google("INVALID_ARGUMENT", "API key not valid.", "API_KEY_INVALID")),
        "no key": (403, google("PERMISSION_DENIED", "Method doesn't allow unregistered callers")),
        "leaked": (403, google("PERMISSION_DENIED", "Your API key was reported as leaked.")),
        "place": (400, google("FAILED_PRECONDITION", "User location is not supported for …")),
        "billing": (400, google("FAILED_PRECONDITION", "Please enable billing on your project")),
        "context": (
            400,
            google("INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of …"),
        ),
        "model": (404, google("NOT_FOUND", "models/x is not found for API version v1beta, or …")),
        "closed": (404, google("NOT_FOUND", "This model is no longer available to new users")),
        "bare": (400, google("INVALID_ARGUMENT", "Request contains an invalid argument.")),
        "states": (
            400,
            google("INVALID_ARGUMENT", "The specified schema produces a constraint that has too many states for serving."),  # noqa: E501
        ),
        "temperature": (400, google("INVALID_ARGUMENT", "temperature must be in [0, 2]")),
        "no JSON": (400, google("INVALID_ARGUMENT", "JSON mode is not enabled for models/x")),
    },
}  # fmt: skip
CASES = [(name, what) for name, bodies in BODIES.items() for what in bodies]
# Each refusal is tried with a schema and one other way, and each way with every provider.
WAYS = [
    (*case, way)
    for number, case in enumerate(CASES)
    for way in (("plain", "streamed")[number % 2], "schema")
]
# Refusals for a key or an account are not counted.
UNCOUNTED = ("banned", "key", "no key", "leaked", "plan", "billing")


def ask(provider: IntelligentLLMOrchestrator, way: str, **options: Any) -> str:
    if way == "streamed":
        return "".join(provider.stream("Hello", **options))
    if way == "schema":
        return provider.generate("Hello", schema="answer int", **options)
    return provider.generate("Hello", **options)


@pytest.mark.parametrize(("name", "what", "way"), WAYS)
def test_a_refusal_ends_within_a_few_calls_on_the_next_route(
    script: RefusingServer, use: Use, name: str, what: str, way: str
) -> None:
    """Each recorded refusal: at most three calls, all counted, and the next provider answers."""
    use(name)
    answers(script, *BODIES[name][what])
    before = requests_counted(name)
    options = {"max_tokens": 50, "temperature": 1.8}
    reply = ask(IntelligentLLMOrchestrator(preferred_provider=name), way, **options)
    assert reply == '{"answer": 1}'
    assert 1 <= script.calls <= 3
    counted = 0 if what in UNCOUNTED else script.calls
    assert requests_counted(name) - before == counted


@pytest.mark.parametrize(("name", "what"), CASES)
def test_a_refusal_of_the_only_route_ends_within_a_few_calls(
    script: RefusingServer, use: Use, name: str, what: str
) -> None:
    """If there is no other route, the request fails, whatever its patience."""
    use(name, healthy=False)
    answers(script, *BODIES[name][what])
    with pytest.raises(LLMProviderError) as caught:
        ask(get_llm_provider(), "schema", max_tokens=50, patience=300)
    assert 1 <= script.calls <= 6
    assert name in str(caught.value)
    assert "rate limit" not in str(caught.value)


def requests_counted(name: str) -> float:
    """Requests that the ledger counted for a provider's key."""
    limits = get_quota_tracker().get_usage_summary(name)[name][f"{name}_key_1"]
    return next(entry["used"] for limit, entry in limits.items() if limit.startswith("requests"))


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(
    ("status", "headers_say"), [(429, "rate limited"), (500, "server error"), (200, "malformed")]
)
def test_no_response_makes_a_request_call_a_route_more_than_six_times(
    script: RefusingServer, use: Use, name: str, status: int, headers_say: str
) -> None:
    """The loop itself has this bound, even if the request may wait longer."""
    use(name, healthy=False)
    answers(script, status, {"object": "odd"})
    with pytest.raises(NoRouteAvailable, match=headers_say):
        get_llm_provider().generate("Hello", patience=1e6, timeout=1e6)
    assert 2 <= script.calls <= 6


def test_many_keys_do_not_make_many_calls(script: RefusingServer, use: Use) -> None:
    """A request whose contents are refused is sent with only one of the keys."""
    Path(".env").write_text("".join(f"GROQ_API_KEY_{n}=key-number-{n}-here\n" for n in range(40)))
    use("groq", healthy=False)
    answers(script, 400, error("no", type=INVALID))
    with pytest.raises(InvalidRequest):
        get_llm_provider().generate("Hello", schema="answer int")
    assert script.calls == 3


def test_a_request_sends_at_most_a_hundred_calls(script: RefusingServer, use: Use) -> None:
    """If there are more keys, all limited, the next request continues with the others."""
    Path(".env").write_text("".join(f"GROQ_API_KEY_{n}=key-number-{n}-here\n" for n in range(104)))
    use("groq", healthy=False)
    answers(script, 429, error("Slower"))
    with pytest.raises(NoRouteAvailable, match="100 calls were sent"):
        get_llm_provider().generate("Hello", patience=0)
    assert script.calls == 100
    with pytest.raises(NoRouteAvailable, match="All Groq API keys have hit rate limits"):
        get_llm_provider().generate("Hello", patience=0)
    assert script.calls == 105


# --- options and formats


def test_a_job_of_refused_rows_stops_after_a_few_calls(script: RefusingServer, use: Use) -> None:
    """Rows after the first use the plainest format, and the error has the reason."""
    use("groq", healthy=False)
    answers(script, 400, error(FORMAT))
    with pytest.raises(JobStopped, match="does not take the request"):
        arche_magic.map(["a", "b", "c"], schema="answer int", pack=1)
    assert script.calls <= 3 * 3


def test_a_refused_format_is_replaced_by_plainer_ones(script: RefusingServer, use: Use) -> None:
    """From the schema to any JSON, and from that to the prompt alone, which the server accepts."""
    use("groq", healthy=False)

    def answer(request: Received) -> tuple[int, Any]:
        asked = request.body.get("response_format", {}).get("type")
        return (400, error(FORMAT)) if asked else (200, completion('{"answer": 3}'))

    script.answer = answer
    reply = get_llm_provider().generate("Hello", schema="answer int")
    assert reply.parsed == {"answer": 3}
    kinds = [request.body.get("response_format", {}).get("type") for request in script.received]
    assert kinds == ["json_schema", "json_object", None]
    get_llm_provider().generate("Hello again", schema="answer int")
    assert script.calls == 4


def test_a_schema_refused_without_a_reason_is_replaced(script: RefusingServer, use: Use) -> None:
    """Gemini gives no reason if it cannot compile a schema; other schemas are not affected."""
    use("google", healthy=False)

    def answer(request: Received) -> tuple[int, Any]:
        if "responseJsonSchema" in request.body["generationConfig"]:
            return 400, google("INVALID_ARGUMENT", "Request contains an invalid argument.")
        parts = [{"text": '{"answer": 3, "other": 4}'}]
        return 200, {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}

    script.answer = answer
    assert get_llm_provider().generate("Hello", schema="answer int").parsed["answer"] == 3
    assert script.calls == 2
    get_llm_provider().generate("Hello", schema="other int")
    assert script.calls == 4


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("first", ["max_tokens", "max_completion_tokens"])
def test_the_token_limit_is_sent_once_under_its_other_name(
    script: RefusingServer, use: Use, first: str, streamed: bool
) -> None:
    """The right name is learned from a refusal, or set in the settings."""
    other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}[first]
    table = SERVER.format(url=script.url) + f'token_limit = "{first}"\n'
    use(healthy=False, table=table.replace('"m"', f'"for-{first}-{streamed}"'))

    def answer(request: Received) -> tuple[int, Any]:
        if first in request.body:
            return 400, error(f"Unsupported parameter: '{first}'. Use '{other}' instead.")
        return 200, completion(f"At most {request.body[other]}.")

    script.answer = answer
    way = "streamed" if streamed else "plain"
    assert ask(get_llm_provider(), way, max_tokens=9) == "At most 9."
    assert script.calls == 2
    ask(get_llm_provider(), way, max_tokens=9)
    assert script.calls == 3


@pytest.mark.parametrize(
    "refusal",
    [
        lambda name: (400, error(f"Unknown parameter: '{name}'.", param=name)),
        lambda name: (
            422,
            {"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs"}]},
        ),
    ],
)
@pytest.mark.parametrize("name", ["stream_options", "max_tokens"])
def test_a_refused_default_parameter_is_omitted_or_renamed(
    script: RefusingServer, use: Use, refusal: Callable[[str], tuple[int, Any]], name: str
) -> None:
    """One refusal per model is enough, in the words of any compatible service."""
    use(healthy=False, table=SERVER.format(url=script.url))
    script.answer = lambda r: refusal(name) if name in r.body else (200, completion("Yes."))
    for _ in range(2):
        assert "".join(get_llm_provider().stream("Hello", max_tokens=9)) == "Yes."
    assert script.calls == 3


def test_a_setting_names_the_token_limit(script: RefusingServer, use: Use) -> None:
    """A service refuses nothing if the first name is right."""
    table = SERVER.format(url=script.url) + 'token_limit = "max_completion_tokens"\n'
    use(healthy=False, table=table)
    answers(script, 200, completion("Yes."))
    get_llm_provider().generate("Hello", max_tokens=9)
    assert script.received[0].body["max_completion_tokens"] == 9
    Path("arche_magic.toml").write_text(table.replace("max_completion_tokens", "tokens"))
    use_configuration(None)
    allowed = "it can be max_tokens or max_completion_tokens; did you mean"
    with pytest.raises(LLMProviderError, match=f"token_limit is 'tokens'; {allowed}"):
        get_llm_provider()


# --- closures


def test_a_model_without_images_still_answers_text(script: RefusingServer, use: Use) -> None:
    """The capability is recorded for the model, so that the next image goes directly to another
    route.
    """
    use("openai")
    provider = IntelligentLLMOrchestrator(preferred_provider="openai")
    answers(script, 404, error("No endpoints found that support image input", code=404))
    for _ in range(2):
        assert provider.generate("What is this?", images=[PICTURE]).provider == "healthy"
    assert script.calls == 1
    answers(script, 200, completion("Text."))
    assert provider.generate("Hello").provider == "openai"


def test_a_model_without_vision_is_named_if_there_is_no_other(
    script: RefusingServer, use: Use
) -> None:
    """The second request is refused before it is sent."""
    use("openai", healthy=False)
    answers(script, 400, error("Invalid content type. image_url is only supported by certain …"))
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="takes no images"):
            get_llm_provider().generate("What is this?", images=[PICTURE])
    assert script.calls == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, "<html><title>404 Not Found</title></html>"),
        (404, "404 page not found"),
        (404, {"detail": "Not Found"}),
        (404, error("Unknown request URL", code="unknown_url")),
        (404, error("The model `m` does not exist", code="model_not_found")),
        (405, {"detail": "Method Not Allowed"}),
        (401, error("no", code="invalid_api_key")),
        (403, "<html>blocked</html>"),
        (200, "<html>Welcome</html>"),
        (307, ""),
        (500, "no"),
    ],
)
def test_a_corrected_base_url_is_used_at_once(
    script: RefusingServer, use: Use, status: int, body: Any
) -> None:
    """Failures at a wrong address close only that address."""

    def answer(request: Received) -> tuple[int, Any]:
        right = request.path == "/v1/chat/completions"
        return (200, completion("Here.")) if right else (status, body)

    script.answer = answer
    wrong = SERVER.format(url=script.url).replace("/v1", "/v2")
    clock = use(healthy=False, table=wrong)
    for _ in range(2):
        with pytest.raises(NoRouteAvailable):
            get_llm_provider().generate("Hello", patience=0)
    assert script.calls == 1
    use(healthy=False, table=wrong.replace("/v2", "/v1"))
    assert get_llm_provider().generate("Hello", patience=0) == "Here."
    assert clock.slept == 0


@pytest.mark.parametrize("ask_for_models", ["keys check", "doctor", "models"])
def test_a_model_that_was_installed_is_open_again(
    script: RefusingServer, use: Use, ask_for_models: str
) -> None:
    """It is enough that a list of models contains it."""
    use(healthy=False, table=SERVER.format(url=script.url))
    missing = 'model "m" not found, try pulling it first'
    answers(script, 404, error(missing, type="api_error"))
    provider = get_llm_provider()
    with pytest.raises(NoRouteAvailable, match=missing):
        provider.generate("Hello", patience=0)
    clock = provider.configuration.clock
    clock.sleep(60)

    def answer(request: Received) -> tuple[int, Any]:
        listed = {"object": "list", "data": [{"id": "m:latest", "object": "model"}]}
        return (200, listed) if request.method == "GET" else (200, completion("Pulled."))

    script.answer = answer
    with pytest.raises(NoRouteAvailable):
        provider.generate("Hello", patience=0)
    if ask_for_models == "doctor":
        examine()
    elif ask_for_models == "models":
        models("")
    else:
        check_keys(provider.configuration.keys, provider.quota_tracker)
    assert provider.generate("Hello", patience=0) == "Pulled."


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("openai", 403, error("Country", code="unsupported_country_region_territory")),
        ("groq", 403, error("Access denied. Please check your network settings.")),
        ("mistral", 403, "<html><title>Attention Required! | Cloudflare</title></html>"),
        ("google", 400, google("FAILED_PRECONDITION", "User location is not supported for …")),
    ],
)
def test_a_blocked_region_or_network_is_tried_after_minutes_then_hourly(
    script: RefusingServer, use: Use, name: str, status: int, body: Any
) -> None:
    """After the user has moved, the same key answers; no other key is needed."""
    clock = use(name)
    answers(script, status, body)
    provider = IntelligentLLMOrchestrator(preferred_provider=name)
    waits = []
    for _ in range(5):
        first = provider.generate("Hello", patience=0).attempts[0]
        assert (first.provider, first.outcome) == (name, "failed")
        assert first.opens_at is not None
        waits.append(first.opens_at - clock.now)
        clock.now = first.opens_at + 1
    assert 60 < waits[0] <= 600
    assert waits[-1] == 3600
    assert waits == sorted(waits)
    assert provider.quota_tracker.closure(provider.configuration.keys[0]) is None


def test_a_key_check_tells_a_blocked_network_from_a_missing_model_list(
    script: RefusingServer, use: Use
) -> None:
    """Both say nothing about the key."""
    use("openai", healthy=False)
    configuration = get_configuration()
    for status, body, words in (
        (
            403,
            "<html><title>Blocked</title></html>",
            "access blocked between this machine and the provider (403): Blocked",
        ),
        (403, error("no", code="unsupported_country_region_territory"), "region or network"),
        (404, "<html>Not here</html>", "it lists no models"),
    ):
        answers(script, status, body)
        (check,) = check_keys(configuration.keys, get_quota_tracker(configuration))
        assert check.works is None
        assert words in check.reason


# --- names of causes

CAUSES: dict[str, tuple[int, Any, str]] = {
    "500": (500, error("boom", type="internal_server_error"), r"server error \(500.*: boom"),
    "malformed": (200, {"hello": 1}, "malformed reply"),
    "a page": (200, "<html>Welcome</html>", "a web page came instead of a reply"),
    "unknown ending": (
        200,
        {"choices": [{"message": {"content": ""}, "finish_reason": "odd"}]},
        "odd",
    ),
    "model": (
        404,
        error(NOT_FOUND, code="model_not_found"),
        "model not found.*choose a model other",
    ),
    "retired": (
        400,
        error("It has been decommissioned.", code="model_decommissioned"),
        "model retired .*It has been decommissioned; choose a model other than",
    ),
    "key": (
        401,
        error("Invalid API Key", code="invalid_api_key"),
        r"key refused .*Invalid API Key; .*GROQ_API_KEY in the environment.*%llm_keys check",
    ),
    "region": (403, error("Please check your network settings."), "region or network refused"),
    "address": (404, "<html><title>Nothing here</title></html>", "no such address.*Nothing here"),
    "no model in sight": (404, {"status": "gone fishing"}, "not found .*gone fishing"),
    "endpoint": (200, {"error": "Unexpected endpoint or method."}, "no such address"),
    "no credit": (402, error("Pay first", code=402), "no credit left.*Pay first"),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("status", "body", "words"), CAUSES.values(), ids=CAUSES)
def test_the_error_names_the_cause(
    script: RefusingServer, use: Use, status: int, body: Any, words: str, streamed: bool
) -> None:
    """Groq's keys have hit a limit only if Groq says so; the server's own words are shown."""
    use("groq", healthy=False)
    answers(script, status, body)
    way = "streamed" if streamed and status != 200 else "plain"
    with pytest.raises(LLMProviderError, match=words) as caught:
        ask(get_llm_provider(), way, patience=0)
    assert "rate limit" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_request_does_not_wait_for_a_missing_model(script: RefusingServer, use: Use) -> None:
    """The model is tried again after a day, but no request waits that long."""
    clock = use("groq", healthy=False)
    answers(script, 404, error(NOT_FOUND, code="model_not_found"))
    with pytest.raises(NoRouteAvailable) as caught:
        get_llm_provider().generate("Hello", patience=1e9, timeout=1e9)
    assert caught.value.next_available_at is None
    assert clock.slept == 0
    clock.now += 86_401
    answers(script, 200, completion("Back."))
    assert get_llm_provider().generate("Hello") == "Back."


def test_a_rejected_key_among_limited_ones_is_not_called_a_limit(
    script: RefusingServer, use: Use
) -> None:
    """The first words of the error claim no more than is true."""
    Path(".env").write_text("GROQ_API_KEY_2=another-groq-key-for-this-test\n")
    use("groq", healthy=False)
    refusals = [(401, error("no", code="invalid_api_key")), (429, error("Slower"))]
    script.answer = lambda request: refusals[script.calls - 1]
    with pytest.raises(NoRouteAvailable, match=r"No available LLM providers.*key refused"):
        get_llm_provider().generate("Hello", patience=0)
    assert script.calls == 2
