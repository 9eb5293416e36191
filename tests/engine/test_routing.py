"""Which route answers: tables of routes and states, without network and clock."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arche_magic.llm_providers.quota.opening import RouteState
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.routing import Decision, RouteChoice, choose
from arche_magic.llm_providers.types import Key, Route

NOW = 1000.0


def route(name: str) -> Route:
    """`groq1` is Groq's first key; a trailing `$` marks a paid route."""
    paid = name.endswith("$")
    provider, number = name.rstrip("$")[:-1], name.rstrip("$")[-1]
    key = Key.of(provider, f"{provider}_key_{number}", name)
    return Route(provider, key, f"{provider}-model", paid)


def name_of(of: Route) -> str:
    return f"{of.provider}{of.key.label[-1]}{'$' if of.paid else ''}"


def chosen(
    states: dict[str, float | tuple[float, float]],
    patience: float = 30,
    preferred: str | None = None,
) -> RouteChoice[Route]:
    """Choose among routes that open after these seconds (0: now), with this headroom."""
    table = {}
    for name, state in states.items():
        opens, headroom = state if isinstance(state, tuple) else (state, 1.0)
        table[route(name)] = RouteState(NOW + opens, "full" if opens else "", headroom)
    return choose(list(table), table.__getitem__, NOW, patience, preferred)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"groq1": 0, "mistral1": 0}, "groq1"),
        ({"mistral1": 0, "groq1": 0}, "mistral1"),
        ({"groq1": 5, "mistral1": 0}, "mistral1"),
        ({"groq1": math.inf, "mistral1": 0}, "mistral1"),
        ({"openai1$": 0, "groq1": 0}, "groq1"),
        ({"groq1": 0, "groq2": 0}, "groq1"),
        ({"groq1": (0, 0.2), "groq2": (0, 0.9)}, "groq2"),
        ({"groq1": (0, 0.1), "mistral1": (0, 0.9)}, "groq1"),
        ({"groq1": 5, "groq2": (0, 0.1), "mistral1": 0}, "groq2"),
        ({"groq1": math.inf, "openai1$": 0}, "openai1$"),
        ({"groq1": 31, "openai1$": 0}, "openai1$"),
        ({"openai1$": 0}, "openai1$"),
        ({"other1$": 5, "openai1$": 0}, "openai1$"),
    ],
)
def test_the_first_open_route_answers(
    states: dict[str, float | tuple[float, float]], expected: str
) -> None:
    """Routes are tried in order, free before paid, and within a provider by headroom."""
    choice = chosen(states)
    assert choice.route is not None
    assert name_of(choice.route) == expected
    assert choice.opens_at == NOW


@pytest.mark.parametrize(
    ("states", "preferred", "expected"),
    [
        ({"groq1": 0, "mistral1": 0}, "mistral", "mistral1"),
        ({"groq1": 0, "openai1$": 0}, "openai", "openai1$"),
        ({"groq1": 0, "openai1$": 5}, "openai", "groq1"),
        ({"groq1": 5, "openai1$": 0}, "openai", "openai1$"),
        ({"groq1": 0, "mistral1": 5}, "mistral", "groq1"),
    ],
)
def test_the_preferred_provider_comes_first_even_if_it_is_paid(
    states: dict[str, float], preferred: str, expected: str
) -> None:
    """While it is closed, the others answer."""
    choice = chosen(dict(states), preferred=preferred)
    assert choice.route is not None
    assert name_of(choice.route) == expected
    assert choice.opens_at == NOW


@pytest.mark.parametrize(
    ("states", "patience", "preferred", "expected", "wait"),
    [
        ({"groq1": 20, "openai1$": 0}, 30, None, "groq1", 20),
        ({"groq1": 20, "mistral1": 10, "openai1$": 0}, 30, None, "mistral1", 10),
        ({"groq1": 30}, 30, None, "groq1", 30),
        ({"groq1": 20, "groq2": 10}, 30, None, "groq2", 10),
        ({"groq1": 20, "openai1$": 3}, 30, None, "groq1", 20),
        ({"groq1": 40, "openai1$": 3}, 30, None, "openai1$", 3),
        ({"groq1": 1e9}, math.inf, None, "groq1", 1e9),
        ({"openai1$": 20, "other1$": 0}, 30, "openai", "openai1$", 20),
    ],
)
def test_waiting_within_patience_comes_before_paying_or_failing(
    states: dict[str, float],
    patience: float,
    preferred: str | None,
    expected: str,
    wait: float,
) -> None:
    """The request waits for the first route to open that costs nothing extra."""
    choice = chosen(dict(states), patience, preferred)
    assert choice.route is not None
    assert name_of(choice.route) == expected
    assert choice.opens_at == NOW + wait


@pytest.mark.parametrize(
    ("states", "patience", "opens"),
    [
        ({}, 30, math.inf),
        ({"groq1": 31, "mistral1": 60}, 30, 31),
        ({"groq1": 1}, 0, 1),
        ({"groq1": math.inf}, 30, math.inf),
        ({"groq1": math.inf}, math.inf, math.inf),
    ],
)
def test_beyond_patience_no_route_is_chosen(
    states: dict[str, float], patience: float, opens: float
) -> None:
    """The result says when the next route opens, and the caller fails with that time."""
    choice = chosen(dict(states), patience)
    assert choice.route is None
    assert choice.opens_at == NOW + opens
    assert [name_of(closed) for closed, _ in choice.skipped] == list(states)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"groq1": 0, "mistral1": 5}, []),
        ({"groq1": 40, "mistral1": 50, "google1": 0, "openai1$": 9}, ["groq1", "mistral1"]),
        ({"groq1": 5, "groq2": 0}, ["groq1"]),
        ({"groq1": 0, "groq2": 5}, []),
        ({"groq1": 20, "openai1$": 0}, ["groq1"]),
    ],
)
def test_closed_routes_before_the_chosen_one_are_named(
    states: dict[str, float], expected: list[str]
) -> None:
    """They become the skipped attempts of the reply, with the reason they were closed."""
    choice = chosen(dict(states))
    assert [name_of(closed) for closed, _ in choice.skipped] == expected
    assert all(state.reason == "full" for _, state in choice.skipped)


@given(
    states=st.dictionaries(
        st.sampled_from(["groq1", "groq2", "groq3", "mistral1", "google1", "openai1$", "other1$"]),
        st.tuples(st.sampled_from([0.0, 0.0, 5.0, 29.5, 31.0, math.inf]), st.floats(0, 1)),
    ),
    patience=st.sampled_from([0.0, 30.0, math.inf]),
    preferred=st.sampled_from([None, "mistral", "openai"]),
    private=st.booleans(),
)
def test_a_choice_can_be_repeated_from_its_record(
    states: dict[str, tuple[float, float]], patience: float, preferred: str | None, private: bool
) -> None:
    """The record or its JSON gives the same route, the same time and the same other routes."""
    choice = chosen(dict(states), patience, preferred)
    request = Request((Message("user", "Hello"),), private=private)
    kept = Decision.of(choice, NOW, patience, preferred, request)
    read = Decision.from_dict(json.loads(json.dumps(kept.to_dict(), allow_nan=False)))
    assert read == kept
    again = read.choice()
    assert again.opens_at == choice.opens_at
    assert (again.route and again.route.name) == (choice.route and full_name(choice.route))
    for one, other in (
        (again.considered, choice.considered),
        (again.skipped, choice.skipped),
    ):
        assert [(r.name, state) for r, state in one] == [(full_name(r), s) for r, s in other]
    assert {*(c.name for c in kept.considered), *kept.later} == {
        full_name(route(name)) for name in states
    }


def full_name(of: Route) -> tuple[str, str, str]:
    return of.provider, of.key.label, of.model


def test_a_choice_evaluates_no_more_routes_than_needed() -> None:
    """It stops at the first unused open key, and names each closed route before it."""
    states = {
        "groq1": (9.0, 0.0), "groq2": (0.0, 0.4), "groq3": (9.0, 0.0), "groq4": (0.0, 1.0),
        "groq5": (0.0, 1.0), "groq6": (9.0, 0.0), "mistral1": (0.0, 1.0),
    }  # fmt: skip
    choice = chosen(states)
    assert choice.route is not None
    assert name_of(choice.route) == "groq4"
    assert [name_of(r) for r, _ in choice.considered] == ["groq1", "groq2", "groq3", "groq4"]
    assert [name_of(r) for r, _ in choice.skipped] == ["groq1", "groq3"]
    assert [name_of(r) for r in choice.later] == ["groq5", "groq6", "mistral1"]


def test_routes_are_identified_by_their_ids() -> None:
    """Equal routes have equal ids, and an id prints as the route is displayed."""
    assert route("groq2") == route("groq2")
    assert {route("groq2"): 1}[route("groq2")] == 1
    assert route("groq2").id == ("groq", "groq_key_2", "groq-model")
    assert str(route("groq2").id) == str(route("groq2")) == "groq · key 2 · groq-model"
