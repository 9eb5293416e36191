"""The ledger outside notebooks: `python -m arche_magic quota`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from .llm_providers.config import get_configuration
from .llm_providers.errors import LLMProviderError
from .llm_providers.quota_tracker import QuotaTracker, get_quota_tracker


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m arche_magic", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    quota = commands.add_parser("quota", help="what every route has left, and when it opens")
    quota.add_argument("action", nargs="?", metavar="PROVIDER | reset", help="narrow, or reset")
    quota.add_argument("key", nargs="?", help="after reset: the key's label, such as groq_key_2")
    quota.add_argument("--json", action="store_true", help="the usage summary as JSON")
    options = parser.parse_args(arguments)
    try:
        tracker = get_quota_tracker()
        if options.action == "reset":
            return _reset(tracker, options.key)
        _show(tracker, options.action, options.json)
    except LLMProviderError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _show(tracker: QuotaTracker, provider: str | None, as_json: bool) -> None:
    if as_json:
        print(json.dumps(tracker.get_usage_summary(provider), indent=2, default=_iso))
        return
    from .notebook.meters import quota_bundle

    if provider:
        get_configuration().provider(provider)
    now = get_configuration().clock.time()
    print(quota_bundle(tracker.standings(provider, now), now)["text/plain"])


def _reset(tracker: QuotaTracker, key: str | None) -> int:
    if not key:
        labels = ", ".join(known.label for known in tracker.configuration.keys)
        print(f"quota reset KEY: name the key; there are {labels or 'none'}", file=sys.stderr)
        return 2
    tracker.reopen(key)
    print(f"{key}: counts and closures are forgotten; the next reply tells what is left")
    return 0


def _iso(value: Any) -> str:
    return str(value.isoformat())


if __name__ == "__main__":
    sys.exit(main())
