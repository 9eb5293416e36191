"""What `%llm_models` shows: the models that match some words, as a table and as a frame."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.doctor import check_keys
from arche_magic.llm_providers.prices import usd_per_million
from arche_magic.llm_providers.quota_tracker import get_quota_tracker
from arche_magic.llm_providers.redaction import without_key_like
from arche_magic.llm_providers.text.wording import did_you_mean

from .frames import typed_frame
from .quota_words import count, in_short
from .tables import Cell, table_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pandas as pd

    from arche_magic.llm_providers.catalog import Provider
    from arche_magic.llm_providers.config import Configuration
else:
    pd = library("pandas")

_PRICES = ["input_usd_per_million", "output_usd_per_million"]


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
        (provider, model)
        for provider in providers.values()
        for model in dict.fromkeys([*provider.models, *sorted(provider.known_models)])
        if _matches(provider.name, model, words.lower().split(), providers)
    ]
    frame = models_frame(found)
    if found:
        return _table(frame, configuration), frame
    names = [name for provider in providers.values() for name in provider.known_models]
    hint = did_you_mean(words.strip(), [*providers, *names])
    line = without_key_like(f"no model in the catalog matches {words.strip()!r}{hint}")
    return {"text/plain": line}, frame


def _matches(provider: str, model: str, words: Iterable[str], providers: Iterable[str]) -> bool:
    return all(word == provider if word in providers else word in model.lower() for word in words)


def models_frame(models: Iterable[tuple[Provider, str]]) -> pd.DataFrame:
    """One row per model, given with its provider, with a column per published limit of any.

    `default` is whether the model is used when none is named, `context` the most tokens of a
    request and its reply. Prices are for paying accounts.
    """
    models = list(models)
    limits, published = published_limits(models)
    records = [
        (provider.name, model, model in provider.models, provider.costs_money(model),
         provider.context_windows.get(model), *amounts,
         *(provider.prices.get(model) or usd_per_million(provider.name, model) or (None, None)),
         provider.source)
        for (provider, model), amounts in zip(models, published, strict=True)
    ]  # fmt: skip
    types = {"provider": "str", "model": "str", "default": "bool", "paid": "bool"}
    types |= dict.fromkeys(["context", *limits], "Int64")
    types |= dict.fromkeys(_PRICES, "float64")
    return typed_frame({**types, "source": "str"}, records)


def published_limits(
    models: Sequence[tuple[Provider, str]],
) -> tuple[list[str], list[list[float | None]]]:
    """The names of all published limits of these models, and the amounts of each model."""
    published = [
        {limit.name: limit.amount for limit in provider.published_limits(model)}
        for provider, model in models
    ]
    names = list(dict.fromkeys(name for amounts in published for name in amounts))
    return names, [[amounts.get(name) for name in names] for amounts in published]


def _table(frame: pd.DataFrame, configuration: Configuration) -> dict[str, str]:
    providers = configuration.providers
    columns = [str(name) for name in frame]
    limits = columns[columns.index("context") + 1 : columns.index(_PRICES[0])]
    # In a terminal a row has to fit into one line; the frame has each limit.
    one_column = sys.stdout.isatty()
    prices = _PRICES if frame[_PRICES].notna().any(axis=None) else []
    names = list(dict.fromkeys(frame["provider"]))
    # If there is only one provider, the line below the table names it.
    owner = ["provider"] if len(names) > 1 else []
    limit_heads = ["limits"] if one_column else map(in_short, limits)
    price_heads = ["USD in", "USD out"] if prices else []
    heads = [*owner, "model", "used", "context", *limit_heads, *price_heads]
    rows = []
    for row in frame.to_dict("records"):
        amounts = [_number(row[name], count) for name in limits]
        if one_column:
            words = (
                f"{cell.text} {in_short(name)}"
                for cell, name in zip(amounts, limits, strict=True)
                if cell.text
            )
            amounts = [Cell(", ".join(words))]
        rows.append(
            (
                *(Cell(row[name]) for name in owner),
                Cell(row["model"], long=True),
                Cell("default" if row["default"] else ""),
                _number(row["context"], count),
                *amounts,
                *(_number(row[name], "{:.3f}".format) for name in prices),
            )
        )
    notes = [f"{name}: {providers[name].source}" for name in names]
    notes += [f"{name} {providers[name].training}" for name in names]
    notes += [f"{alias} is your name for {name}" for alias, name in configuration.aliases.items()]
    if prices:
        notes.append(
            "USD: per million tokens for paying accounts, from your settings or the package "
            "genai-prices; free routes cost nothing"
        )
    return table_bundle(heads, rows, notes)


def _number(value: float | None, words: Callable[[float], str]) -> Cell:
    return Cell("" if value is None or pd.isna(value) else words(value), right=True)
