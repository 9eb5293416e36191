"""`%llm_quota`: what every route has left."""

from __future__ import annotations

import re

from ..command import Session, Shown, Typed, command, option


@command(option("--plot", "Show plots of what was used since midnight."))
def llm_quota(session: Session, typed: Typed) -> Shown:
    """Show what every route has left, and return it as a DataFrame.

    Usage:
      %llm_quota [OPTIONS] [PROVIDER]

    Examples:
      %llm_quota
      %llm_quota --plot groq
    """
    from arche_magic.llm_providers.attempt_log import attempt_log
    from arche_magic.llm_providers.config import get_configuration
    from arche_magic.llm_providers.errors import InvalidRequest

    from .. import quota
    from ..frames import quota_frame
    from ..keys import require_keys
    from ..plots import can_draw, last_midnight, pictures_bundle, usage_pictures

    provider = typed.text.strip() or None
    if re.match(r"reset\b", typed.text):
        raise InvalidRequest(
            f"%llm_quota shows what is left; to reset a key, run python -m arche_magic quota "
            f"{typed.text if ' ' in typed.text else 'reset KEY'}"
        )
    if provider:
        get_configuration().provider(provider)
    require_keys()
    view = quota.current_quota(provider)
    log, outlook = attempt_log(view.configuration.store), quota.forecast_of(view)
    if view.on and typed.options.plot and can_draw():
        since = last_midnight(view.now)
        used = [a for a in log.since(since) if provider in (None, a.provider)]
        shown = pictures_bundle(usage_pictures(used, view.on, since, view.now))
    else:
        shown = quota.view_bundle(view, *outlook.notes())
    frame = quota_frame(view.on, log.spent(), view.now)
    frame.attrs["outlook"] = outlook.to_dict()
    return shown, frame
