"""Removes keys from what the HTTP libraries and SDKs log about our calls.

They log status lines and headers as they arrive, and a server may put the key there. Log records of
other calls, in a program that uses the same libraries, are not changed.
"""

from __future__ import annotations

import logging
import threading
import traceback

from ..secrets import quotes, redacted
from ..types import Key

_LIBRARIES = (
    "httpx", "httpx2", "httpcore", "httpcore2", "openai", "groq", "mistralai", "google_genai",
)  # fmt: skip


# `keys` are those of this thread's calls in progress.
_calls = threading.local()


def _clean(record: logging.LogRecord) -> bool:
    """Clean a log record that quotes a key. Returns True, because no record is dropped."""
    for key in getattr(_calls, "keys", ()):
        if record.exc_info and record.exc_info[0]:
            text = "".join(traceback.format_exception(record.exc_info[1]))
            if quotes(text, key.secret()):
                record.msg = f"{record.getMessage()} ({record.exc_info[0].__name__})"
                record.args, record.exc_info, record.exc_text = (), None, None
        if quotes(text := record.getMessage(), key.secret()):
            record.msg, record.args = redacted(text, key.secret()), ()
    return True


def clean_logs() -> None:
    """Clean the logs of all libraries imported so far; call it again after importing an SDK."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _LIBRARIES:
            logger.addFilter(_clean)


def keys_in_use() -> list[Key]:
    """Return the list of keys to keep out of what this thread logs, one for each of its calls."""
    keys: list[Key] = _calls.__dict__.setdefault("keys", [])
    return keys
