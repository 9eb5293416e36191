"""The configuration: where settings and keys come from, and what they mean.

`loading` reads the environment, `.env` (`env_file`) and `arche_magic.toml` (`sources`), checks it
by `settings_table`, and builds a `Configuration`. `current` has the one in use, and reads again
when `settings_stamp` shows a change. `base_url_policy` and `paths` decide what a project's files
can set.
"""

from __future__ import annotations

from .base_url_policy import own_settings_folder
from .configuration import Configuration
from .current import get_choices, get_configuration, is_given, use_choices, use_configuration
from .keys import add_key, added_keys, find_key, forget_secrets, label_keys, remove_key
from .loading import load_configuration
from .settings_table import did_you_mean

__all__ = [
    "Configuration",
    "add_key",
    "added_keys",
    "did_you_mean",
    "find_key",
    "forget_secrets",
    "get_choices",
    "get_configuration",
    "is_given",
    "label_keys",
    "load_configuration",
    "own_settings_folder",
    "remove_key",
    "use_choices",
    "use_configuration",
]
