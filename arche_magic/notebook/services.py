"""What `%llm_services` shows: providers and known services, as a table, text and a frame."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from arche_magic.llm_providers.catalog import known_services, published_providers
from arche_magic.llm_providers.config import Service, how_to_turn_on

from .quota_words import as_of, in_short
from .styles import QUIET
from .tables import Cell, html_table, notes_html

if TYPE_CHECKING:
    import pandas as pd

_GROUPS = {
    "in use": "in use",
    "off": "a key was found, but the service is off",
    "available": "available, but not configured",
    "retired": "retired",
}
_NOTE = (
    "Free tiers change often: each line has a date and a source. What a service "
    "needs goes into .env (keys) and arche_magic.toml ([providers.NAME])."
)


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

    `paid` is whether that model costs money, `trains` whether the service trains on prompts of
    free accounts; `keys` has labels of keys, or variables that hold one.
    """
    from .frames import typed_frame
    from .models import published_limits

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
        words[1] = "limits not published" if is_known else "limits as replies state them"
    if provider.training.free == "yes":
        words.append("may train on prompts")
    return "; ".join(filter(None, words))


def configured_words(service: Service) -> str:
    """Which keys there are, and what is missing to use the service."""
    provider, steps = service.provider, how_to_turn_on(service)
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
    """What is configured and missing; long names of variables may wrap only after an underscore."""
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
