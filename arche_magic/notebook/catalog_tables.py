"""The tables of `%llm_models` and `%llm_services`: models, providers and known services."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
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

from .styles import QUIET, Cell, escape, html_table, notes_html, table_bundle
from .words import as_of, count_text, in_short

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
    def texts(name: str, words: Callable[[float], str] = count_text) -> list[str]:
        known = zip(frame[name], frame[name].notna(), strict=True)
        return [words(value) if is_known else "" for value, is_known in known]

    providers, names = configuration.providers, list(dict.fromkeys(frame["provider"]))
    fields = [str(name) for name in frame]
    limits = fields[fields.index("context") + 1 : fields.index(_PRICES[0])]
    amounts = {in_short(name): texts(name) for name in limits}
    prices = {}
    if frame[_PRICES].notna().any(axis=None):
        heads = zip(("USD in", "USD out"), _PRICES, strict=True)
        prices = {head: texts(name, "{:.3f}".format) for head, name in heads}
    columns = {
        # If there is only one provider, the line below the table names it.
        **({"provider": list(frame["provider"])} if len(names) > 1 else {}),
        "model": list(frame["model"]),
        "used": ["default" if is_default else "" for is_default in frame["default"]],
        "context": texts("context"),
    }
    if sys.stdout.isatty():
        # In a terminal, a row must fit into one line. The frame has all limits.
        columns["limits"] = [
            ", ".join(f"{column[row]} {head}" for head, column in amounts.items() if column[row])
            for row in range(len(frame))
        ]
    else:
        columns |= amounts
    columns |= prices
    notes = [f"{name}: {providers[name].source}" for name in names]
    notes += [f"{name} {providers[name].training}" for name in names]
    notes += [f"{alias} is your name for {name}" for alias, name in configuration.aliases.items()]
    if prices:
        notes.append(
            "USD: per million tokens for paying accounts, from your settings or the package "
            "genai-prices; free routes cost nothing"
        )
    rows = list(zip(*columns.values(), strict=True))
    right = ["context", *amounts, *prices]
    return table_bundle(list(columns), rows, notes, right=right, long=["model"])


def services_bundle(services: Sequence[Service], now: float) -> dict[str, str]:
    """The services as a table per group; as text, the lines of `services_text`."""
    moment = as_of(now)
    heads = ("service, keys from", "free", "configured")
    html = ""
    for state, group in groupby(services, lambda service: service.state):
        html += f'<div style="font-weight:600;margin:10px 0 2px">{escape(_GROUPS[state])}</div>'
        html += html_table(heads, map(_service_row, group), long=("free", "configured"))
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


def _service_row(service: Service) -> tuple[Cell, Cell, Cell]:
    """The name with a link to its page for keys; what is free, with the source; configured keys."""
    provider, free, configured = service.provider, free_words(service), configured_words(service)
    name = escape(provider.name)
    if provider.key_page.startswith("https://"):
        page = escape(provider.key_page)
        host = escape(provider.key_page.split("/")[2])
        name += f'<div style="{QUIET}"><a href="{page}" rel="noopener">{host}</a></div>'
    # Addresses may wrap anywhere, so that a narrow page shows the column beside them.
    source = f'<div style="overflow-wrap:anywhere;{QUIET}">{escape(provider.source)}</div>'
    # Names of variables wrap only after an underscore.
    keys = escape(configured).replace("_", "_<wbr>")
    return (provider.name, name), (free, escape(free) + source), (configured, keys)


def _wrapped(paragraph: str, head: str, width: int) -> list[str]:
    return textwrap.wrap(
        paragraph,
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
