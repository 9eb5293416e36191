"""`%llm_quota`: what every route has left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..command import Session, Typed, argument, command

if TYPE_CHECKING:
    import pandas as pd


@command(
    argument("--plot", action="store_true", help="Show plots of what was used since midnight.")
)
def llm_quota(session: Session, typed: Typed) -> pd.DataFrame:
    """Show what every route has left; returns it as a DataFrame.

    Usage:
      %llm_quota [OPTIONS] [PROVIDER]

    Examples:
      %llm_quota
      %llm_quota --plot groq
    """
    from arche_magic.llm_providers.attempt_log import attempt_log
    from arche_magic.llm_providers.config import get_configuration
    from arche_magic.llm_providers.quota.forecast import PACE_SECONDS
    from arche_magic.llm_providers.quota_tracker import get_quota_tracker

    from ..costs import paid_routes
    from ..display import show
    from ..drawing import can_draw, pictures_bundle
    from ..first_steps import require_keys
    from ..frames import quota_frame
    from ..meters import budget_notes, quota_bundle, shared_notes, switched_off, without_limits
    from ..outlook import look_ahead
    from ..plots import last_midnight, usage_pictures

    configuration = get_configuration()
    provider = typed.text.strip() or None
    if provider:
        configuration.provider(provider)
    require_keys()
    now = configuration.clock.time()
    tracker, log = get_quota_tracker(configuration), attempt_log(configuration.store)
    standings = tracker.standings(provider, now)
    paid = {entry.name for entry in configuration.providers.values() if entry.paid}
    asked = (route for route in configuration.routes() if provider in (None, route.provider))
    costs = paid_routes(configuration.routes(), log.spent())
    free = without_limits(asked, standings, costs)
    outlook = look_ahead(standings, log.since(now - PACE_SECONDS) or log.session(), now, paid)
    if standings and typed.options.plot and can_draw():
        since = last_midnight(now)
        used = [a for a in log.since(since) if provider in (None, a.provider)]
        show(pictures_bundle(usage_pictures(used, standings, since, now)))
    elif standings or configuration.off or free:
        notes = [*(outlook.notes() if standings else []), *free]
        notes += budget_notes(use.left for use in tracker.budget())
        notes += shared_notes(tracker.shared_keys(), provider)
        notes += switched_off(configuration.off)
        none = {"none": "nothing is limited so far"} if free else {}
        show(quota_bundle(standings, now, notes, paid=costs, **none))
    else:
        show({"text/plain": f"no key {f'of {provider} ' if provider else ''}is configured"})
    frame = quota_frame(standings, log.spent(), now)
    frame.attrs["outlook"] = outlook.to_dict()
    return frame
