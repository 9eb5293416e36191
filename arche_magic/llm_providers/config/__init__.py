"""The configuration: where settings and keys come from, and what they mean.

`sources` finds the environment, `.env` (`env_file`) and `arche_magic.toml`, which `settings_table`
checks. `loading` builds a `Configuration` from them, and `providers` decides which addresses a
project's files can set. `current` has the configuration in use, reads again after a change, and
lists the providers and known services with what is configured of each.
"""

from __future__ import annotations

from ..catalog import Provider, known_services, published_providers
from .configuration import Clock, Configuration, SystemClock
from .current import (
    Choices,
    Service,
    get_choices,
    get_configuration,
    how_to_turn_on,
    is_from_program,
    list_services,
    use_choices,
    use_configuration,
)
from .keys import add_key, find_key, forget_secrets, label_keys, remove_key
from .loading import load_configuration
from .sources import env_file_problem, own_settings_folder

__all__ = [
    "Choices",
    "Clock",
    "Configuration",
    "Provider",
    "Service",
    "SystemClock",
    "add_key",
    "env_file_problem",
    "find_key",
    "forget_secrets",
    "get_choices",
    "get_configuration",
    "how_to_turn_on",
    "is_from_program",
    "known_services",
    "label_keys",
    "list_services",
    "load_configuration",
    "own_settings_folder",
    "published_providers",
    "remove_key",
    "use_choices",
    "use_configuration",
]
