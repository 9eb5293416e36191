"""Capabilities that a route's model lacks, by its wire, the catalog, and its refusals."""

from __future__ import annotations

import math

from ..config import Configuration
from ..provider_failure import Remedy
from ..request import Request
from ..wire_fields import may_be_unsuitable, unsuitable
from . import closures
from .opening import RouteState
from .state import RouteRecord


def lacking(
    record: RouteRecord, request: Request, configuration: Configuration, now: float
) -> RouteState | None:
    """A state that says what the route cannot take of the request; None if nothing is known."""
    if not may_be_unsuitable(request):
        return None
    route = record.route
    reason = unsuitable(configuration.providers[route.provider].wire, request)
    if request.images:
        takes_images = configuration.takes_images(route)
        if not takes_images or closures.lacks(record, "images", now):
            reason = "takes no images"
    if request.uses_tools and closures.lacks(record, "tools", now):
        reason = "takes no tools"
    if request.inputs and closures.lacks(record, "embeddings", now):
        reason = "makes no embeddings"
    if not reason:
        return None
    return RouteState(math.inf, reason, 0.0, remedy=Remedy.FIX_REQUEST.name)
