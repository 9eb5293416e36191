"""The models of the catalog that match some words, as a table and as a frame."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.doctor import check_keys
from arche_magic.llm_providers.prices import usd_per_million
from arche_magic.llm_providers.quota_tracker import get_quota_tracker
from arche_magic.llm_providers.text.hints import did_you_mean

from .frames import models_frame
from .meters import count
from .tables import Cell, table_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import pandas as pd

    from arche_magic.llm_providers.catalog import Provider
    from arche_magic.llm_providers.config import Configuration

_SHORT = {"requests_per_": "requests/", "input_tokens_per_": "input/", "tokens_per_": "tokens/"}


@dataclass(frozen=True)
class Model:
    """A model of the catalog.

    Attributes:
        default: whether it is used when no model is named.
        context: maximum tokens of a request and its reply, if known.
        limits: published amounts by the limit's name, such as `requests_per_day`.
        price: USD for a million input and output tokens of paying accounts, if known.
    """

    provider: str
    name: str
    default: bool
    paid: bool
    context: int | None
    limits: Mapping[str, float]
    price: tuple[float, float] | None
    source: str


def models(words: str) -> tuple[dict[str, str], pd.DataFrame]:
    """The models that match all of the words: a provider's name, or a part of the model's.

    A provider that reported a model as missing is asked for its list; models in it open again.
    """
    configuration = get_configuration()
    providers = configuration.providers
    tracker = get_quota_tracker(configuration)
    if missing := tracker.missing_models():
        check_keys([key for key in configuration.keys if key.provider in missing], tracker)
    found = [
        model
        for provider in providers.values()
        for model in _of(provider)
        if _matches(model, words.lower().split(), providers)
    ]
    if found:
        return _table(found, configuration), models_frame(found)
    names = [name for provider in providers.values() for name in provider.known_models]
    hint = did_you_mean(words.strip(), [*providers, *names])
    line = f"no model in the catalog matches {words.strip()!r}{hint}"
    return {"text/plain": line}, models_frame(found)


def _of(provider: Provider) -> Iterable[Model]:
    for name in dict.fromkeys([*provider.models, *sorted(provider.known_models)]):
        yield Model(
            provider.name,
            name,
            default=name in provider.models,
            paid=provider.costs_money(name),
            context=provider.context_windows.get(name),
            limits={limit.name: limit.amount for limit in provider.published_limits(name)},
            price=provider.prices.get(name) or usd_per_million(provider.name, name),
            source=provider.source,
        )


def _matches(model: Model, words: Iterable[str], providers: Iterable[str]) -> bool:
    return all(
        word == model.provider if word in providers else word in model.name.lower()
        for word in words
    )


def _table(found: list[Model], configuration: Configuration) -> dict[str, str]:
    providers = configuration.providers
    limits = list(dict.fromkeys(name for model in found for name in model.limits))
    # In a terminal a row has to fit into one line; the frame has each limit.
    one_column = sys.stdout.isatty()
    priced = any(model.price for model in found)
    prices = ["USD in", "USD out"] if priced else []
    names = dict.fromkeys(model.provider for model in found)
    # If there is only one provider, the line below the table names it.
    owner = ["provider"] if len(names) > 1 else []
    limit_heads = ["limits"] if one_column else map(_short, limits)
    heads = [*owner, "model", "used", "context", *limit_heads, *prices]
    rows = [
        (
            *(Cell(model.provider) for _ in owner),
            Cell(model.name),
            Cell("default" if model.default else ""),
            _number(model.context, count),
            *(
                [Cell(", ".join(f"{count(x)} {_short(name)}" for name, x in model.limits.items()))]
                if one_column
                else [_number(model.limits.get(name), count) for name in limits]
            ),
            *(_number(price, "{:.3f}".format) for price in model.price or (None, None) if priced),
        )
        for model in found
    ]
    notes = [f"{name}: {providers[name].source}" for name in names]
    notes += [f"{name} {providers[name].training}" for name in names]
    notes += [f"{alias} is your name for {name}" for alias, name in configuration.aliases.items()]
    if priced:
        notes.append(
            "USD: per million tokens for paying accounts, from your settings or the package "
            "genai-prices; free routes cost nothing"
        )
    return table_bundle(heads, rows, notes)


def _number(value: float | None, words: Callable[[float], str]) -> Cell:
    return Cell("" if value is None else words(value), right=True)


def _short(limit: str) -> str:
    """`requests/min`, `tokens/day`, `input/min`."""
    for long, short in _SHORT.items():
        if limit.startswith(long):
            return short + limit.removeprefix(long).replace("minute", "min")
    return limit.replace("_", " ")
