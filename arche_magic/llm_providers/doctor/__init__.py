"""Check the configuration: keys, files, network, models and the ledger.

`examination` examines everything, with `settings_files` for `.env` and the settings file and
`key_checks` for the question whether providers accept keys.
"""

from __future__ import annotations

from .examination import examine
from .finding import Finding
from .key_checks import KeyCheck, check_keys

__all__ = ["Finding", "KeyCheck", "check_keys", "examine"]
