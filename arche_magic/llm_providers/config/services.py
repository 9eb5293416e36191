"""Providers and known services: which exist, which are in use, and which have a key but are off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..catalog import Provider, known_services
from ..files import working_directory
from ..network import is_loopback
from .configuration import Configuration
from .current import get_configuration, is_from_program
from .keys import numbered_names
from .sources import SETTINGS_FILE, find_sources

ServiceState = Literal["in use", "off", "available", "retired"]


@dataclass(frozen=True)
class Service:
    """A provider or a known service, and what is configured of it.

    Attributes:
        provider: what is known about it; if it is in use, as the settings have it.
        state: `in use` with a key, `off` with a key but without a table in the settings or if all
            keys are switched off, `available` without a key, or `retired`.
        keys: labels of its keys if it is configured, else the variables that hold one.
        turn_on: the line of the settings that turns it on; "" if there is nothing to turn on.
    """

    provider: Provider
    state: ServiceState
    keys: tuple[str, ...] = ()
    turn_on: str = ""

    @property
    def is_local(self) -> bool:
        """Whether it is a server on this machine."""
        return is_loopback(self.provider.url)


def list_services(configuration: Configuration | None = None) -> list[Service]:
    """Return all providers and known services, by state; those that cost money come last in each.

    Raises:
        ConfigurationError: the settings or `.env` cannot be read.
    """
    configuration = configuration or get_configuration()
    variables: Mapping[str, str] = {}
    # A configuration that was given by a program does not depend on variables.
    if not is_from_program():
        variables = find_sources(working_directory()).variables
    configured = configuration.providers
    rows = []
    for provider in configured.values():
        keys = tuple(key.label for key in configuration.keys if key.provider == provider.name)
        state: ServiceState = "available"
        if keys:
            state = "off" if configuration.off.issuperset(keys) else "in use"
        rows.append(Service(provider, state, keys))
    others = (one for name, one in known_services().items() if name not in configured)
    used = {name for provider in configured.values() for name in provider.key_variables}
    rows += [_known(provider, variables, used) for provider in others]
    order: list[ServiceState] = ["in use", "off", "available", "retired"]
    return sorted(rows, key=lambda row: (order.index(row.state), row.provider.paid, row.is_local))


def _known(provider: Provider, variables: Mapping[str, str], used: set[str]) -> Service:
    if provider.retired:
        return Service(provider, "retired")
    models = "" if provider.models else ' with its models = ["…"]'
    turn_on = f"[providers.{provider.name}]{models}"
    # A server on this machine needs no key, and a key may be in use under another provider's name.
    unused = [name for name in provider.key_variables if name not in used]
    keys = () if is_loopback(provider.url) else tuple(numbered_names(variables, unused))
    return Service(provider, "off" if keys else "available", keys, turn_on)


def how_to_turn_on(service: Service) -> str:
    """Return what to set and write to use a service that has a key; "" if nothing is missing."""
    steps = [f"set {name}" for name in service.provider.address_variables]
    if service.turn_on:
        steps.append(f"add the line {service.turn_on} to {SETTINGS_FILE}")
    return " and ".join(steps)
