"""Examine what is configured: keys, files, network, models and the ledger.

`examination` examines everything, `files` the `.env` and the settings file, and `key_checks` asks
providers whether they accept keys.
"""

from __future__ import annotations

from .examination import examine
from .finding import Finding
from .key_checks import KeyCheck, check_keys

__all__ = ["Finding", "KeyCheck", "check_keys", "examine"]
