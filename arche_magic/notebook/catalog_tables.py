"""The tables of `%llm_models` and `%llm_services`: models, providers and known services."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from arche_magic.llm_providers.config import (
    Service,
    get_configuration,
    how_to_turn_on,
    known_services,
    published_providers,
)
from arche_magic.llm_providers.prices import usd_per_million
from arche_magic.llm_providers.secrets import without_key_like
from arche_magic.llm_providers.text.wording import did_you_mean

from .quota_words import as_of, count_text, in_short
from .styles import QUIET
from .tables import Cell, html_table, notes_html, table_bundle

if TYPE_CHECKING:
    import pandas as pd

    from arche_magic.llm_providers.config import Configuration, Provider

_PRICES = ["input_usd_per_million", "output_usd_per_million"]
_GROUPS = {
    "in use": "in use",
    "off": "a key was found, but the service is off",
    "available": "available, but not configured",
    "retired": "retired",
}
_TURN_ON = "turn it on in %llm_panel"
_NOTE = (
    "Free tiers change often, so each line has a date and a source. Put keys into .env, and other "
    "settings of a service into arche_magic.toml ([providers.NAME])."
)


def models(words: str) -> tuple[dict[str, str], pd.DataFrame]:
    """The models that match all of the words: a provider's name, or a part of the model's.

    A provider that reported a model as missing is asked for its list; models in it open again.
    """
    from arche_magic.llm_providers.doctor import check_keys
    from arche_magic.llm_providers.quota_tracker import get_quota_tracker

    configuration = get_configuration()
    providers = configuration.providers
    tracker = get_quota_tracker(configuration)
    if missing := tracker.missing_models():
        check_keys([key for key in configuration.keys if key.provider in missing], tracker)
    asked = words.lower().split()
    found = [
        (provider, model)
        for name, provider in providers.items()
        for model in dict.fromkeys([*provider.models, *sorted(provider.known_models)])
        if all(word == name if word in providers else word in model.lower() for word in asked)
    ]
    frame = models_frame(found)
    if found:
        return _models_table(frame, configuration), frame
    names = [name for provider in providers.values() for name in provider.known_models]
    hint = did_you_mean(words.strip(), [*providers, *names])
    line = without_key_like(f"no model in the catalog matches {words.strip()!r}{hint}")
    return {"text/plain": line}, frame


def models_frame(models: Iterable[tuple[Provider, str]]) -> pd.DataFrame:
    """One row per model, with a column for each published limit that any of them has.

    Each model is given with its provider. `default` is true if the model is used when none is
    named. `context` is the maximum number of tokens of a request and its reply. Prices (USD) are
    for paying accounts.
    """
    from .frames import typed_frame

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


def _models_table(frame: pd.DataFrame, configuration: Configuration) -> dict[str, str]:
    providers = configuration.providers
    columns = [str(name) for name in frame]
    limits = columns[columns.index("context") + 1 : columns.index(_PRICES[0])]
    # In a terminal, a row must fit into one line. The frame has all limits.
    one_column = sys.stdout.isatty()
    prices = _PRICES if frame[_PRICES].notna().any(axis=None) else []
    names = list(dict.fromkeys(frame["provider"]))
    # If there is only one provider, the line below the table names it.
    owner = ["provider"] if len(names) > 1 else []
    limit_heads = ["limits"] if one_column else map(in_short, limits)
    price_heads = ["USD in", "USD out"] if prices else []
    heads = [*owner, "model", "used", "context", *limit_heads, *price_heads]
    rows = []
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        amounts = [_number(row[name], count_text) for name in limits]
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
                _number(row["context"], count_text),
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
    return Cell("" if value is None else words(value), right=True)


def services_bundle(services: Sequence[Service], now: float) -> dict[str, str]:
    """The services as a table per group; as text, the lines of `services_text`."""
    moment = as_of(now)
    heads = ("service, keys from", "free", "configured")
    html = ""
    for state, group in groupby(services, lambda service: service.state):
        rows = [(_name(service), _with_source(service), _configured(service)) for service in group]
        html += f'<div style="font-weight:600;margin:10px 0 2px">{escape(_GROUPS[state])}</div>'
        html += html_table(heads, rows)
    text = f"{services_text(services)}\n{moment}"
    return {"text/plain": text, "text/html": html + notes_html([_NOTE, moment])}


def services_frame(services: Iterable[Service]) -> pd.DataFrame:
    """One row per provider and known service, with the limits of its default model.

    `paid` is true if that model costs money, `trains` says whether the service trains on prompts of
    free accounts, and `keys` has labels of keys, or variables that hold a key.
    """
    from .frames import typed_frame

    services = list(services)
    models = [(one.provider, next(iter(one.provider.models), "")) for one in services]
    limits, published = published_limits(models)
    records = [
        (provider.name, provider.title, one.state, provider.costs_money(model), provider.free_tier,
         *amounts, provider.training.free, ", ".join(one.keys), provider.key_variables[0],
         one.turn_on, provider.key_page, provider.source)
        for one, (provider, model), amounts in zip(services, models, published, strict=True)
    ]  # fmt: skip
    words = ("keys", "variable", "turn_on", "key_page", "source")
    types = {"service": "str", "title": "str", "state": "str", "paid": "bool", "free_tier": "str"}
    types |= {**dict.fromkeys(limits, "Int64"), "trains": "str", **dict.fromkeys(words, "str")}
    return typed_frame(types, records)


def services_text(services: Sequence[Service], width: int = 100) -> str:
    """A paragraph per service, below the name of its group; no line is longer than `width`.

    Addresses are never broken, so a line with a long one may be longer.
    """
    names = max(len(service.provider.name) for service in services)
    lines: list[str] = []
    for state, group in groupby(services, lambda service: service.state):
        lines += _wrapped(_GROUPS[state], "", width)
        for service in group:
            page = service.provider.key_page if service.state == "available" else ""
            paragraphs = [
                free_words(service),
                configured_words(service) + (f"; keys: {page}" if page else ""),
                f"source: {service.provider.source}",
            ]
            head = f"  {service.provider.name:{names}}  "
            for paragraph in filter(None, paragraphs):
                lines += _wrapped(paragraph, head, width)
                head = " " * len(head)
    return "\n".join([*lines, *_wrapped(_NOTE, "", width)])


def free_words(service: Service) -> str:
    """The free tier, and the limits of the default model."""
    provider = service.provider
    if provider.retired:
        return f"retired on {provider.retired}"
    if provider.paid and not provider.free_tier:
        return "no free tier"
    first = next(iter(provider.models), "")
    limits = [f"{x.amount:,.0f} {in_short(x.name)}" for x in provider.published_limits(first)]
    words = [provider.free_tier, ", ".join(limits)]
    if not (limits or provider.paid or service.is_local):
        is_known = provider.name in {**published_providers(), **known_services()}
        words[1] = "limits not published" if is_known else "limits stated in replies"
    if provider.training.free == "yes":
        words.append("may train on prompts")
    return "; ".join(filter(None, words))


def configured_words(service: Service) -> str:
    """Which keys there are, and what is missing to use the service."""
    provider, steps = service.provider, how_to_turn_on(service) or _TURN_ON
    costs = " (costs money)" if provider.paid else ""
    match service.state:
        case "in use":
            return f"{', '.join(service.keys)}{costs}"
        case "off":
            return f"{', '.join(service.keys)} is set; to use it{costs}, {steps}"
        case "available":
            needs = [] if service.is_local else [provider.key_variables[0]]
            needs += [*provider.address_variables, *filter(None, [service.turn_on])]
            return f"needs {', '.join(needs)}"
        case _:
            return ""


def _name(service: Service) -> Cell:
    """The name, and below it a link to the page that gives keys."""
    name, url = service.provider.name, service.provider.key_page
    if not url.startswith("https://"):
        return Cell(name)
    link = f'<a href="{escape(url)}" rel="noopener">{escape(url.split("/")[2])}</a>'
    return Cell(name, f'{escape(name)}<div style="{QUIET}">{link}</div>')


def _with_source(service: Service) -> Cell:
    words = free_words(service)
    # Addresses may wrap anywhere, so that a narrow page shows the column beside them.
    style = f"overflow-wrap:anywhere;{QUIET}"
    html = f'{escape(words)}<div style="{style}">{escape(service.provider.source)}</div>'
    return Cell(words, html, long=True)


def _configured(service: Service) -> Cell:
    """The configured keys and missing settings; long names wrap only after an underscore."""
    text = configured_words(service)
    return Cell(text, escape(text).replace("_", "_<wbr>"), long=True)


def _wrapped(paragraph: str, head: str, width: int) -> list[str]:
    return textwrap.wrap(
        paragraph,
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
