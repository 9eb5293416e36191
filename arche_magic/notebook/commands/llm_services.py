"""`%llm_services`: the providers and the known services with free tiers."""

from __future__ import annotations

from ..command import Session, Shown, Typed, command


@command()
def llm_services(session: Session, typed: Typed) -> Shown:
    """Show providers and known services: what is free and in use, where to get keys.

    Every figure has a date and a source. A service that is not built in is used only if a line in
    arche_magic.toml turns it on. Nothing is sent. Returns a DataFrame.

    Usage:
      %llm_services

    Examples:
      %llm_services
    """
    from arche_magic.llm_providers.config import get_configuration, list_services

    from ..catalog_tables import services_bundle, services_frame

    services = list_services()
    bundle = services_bundle(services, get_configuration().clock.time())
    return bundle, services_frame(services)
