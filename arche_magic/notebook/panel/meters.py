"""The panel's meters: one table, or with many routes a group per provider that opens."""

from __future__ import annotations

from collections.abc import Sequence

from ..quota import QuotaView, notes
from ..quota_table import ROUTES_UNFOLDED, by_provider, by_route, is_folded, states_html, table
from ..quota_words import Limits
from ..tables import notes_html
from . import redraw
from .parts import Parts, widgets


class Meters:
    """The meters of one panel.

    Attributes:
        box: the widget that shows them.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._whole, self._notes = parts.html(), parts.html()
        self._groups: dict[str, _Group] = {}
        self.box = parts.column([self._whole, self._notes])

    def draw(self, view: QuotaView) -> None:
        """Show this view; widgets send only changes."""
        self._notes.value = notes_html(notes(view))
        routes = by_route(view.standings)
        groups = by_provider(routes) if is_folded(routes) else {}
        for name in groups.keys() - self._groups.keys():
            title = view.configuration.providers[name].title
            self._groups[name] = _Group(self._parts, title, len(routes) <= ROUTES_UNFOLDED)
        for name, limits in groups.items():
            self._groups[name].draw(view, limits)
        if groups:
            self.box.children = [*(self._groups[name].box for name in groups), self._notes]
        else:
            self._whole.value = table(routes, view.now, view.paid, is_on=view.is_on)
            self.box.children = [self._whole, self._notes]


class _Group:
    """The routes of one provider: a line that opens to a table."""

    def __init__(self, parts: Parts, title: str, is_open: bool) -> None:
        self._open = parts.make(
            widgets.ToggleButton, {"width": "auto"}, value=is_open,
            description=title, tooltip=f"Show or hide the routes of {title}",
        )  # fmt: skip
        self._every = parts.make(
            widgets.ToggleButton, {"width": "auto"}, description=f"All limits of {title}",
            tooltip="Show every limit, not only the tightest of each route",
        )  # fmt: skip
        self._summary, self._table = parts.html(), parts.html()
        self._head = parts.row([self._open, self._summary])
        self.box = parts.column([self._head])
        for switch in (self._open, self._every):
            switch.observe(lambda _: redraw(), "value")

    def draw(self, view: QuotaView, routes: Sequence[Limits]) -> None:
        is_open = self._open.value
        self._open.icon = "caret-down" if is_open else "caret-right"
        self._summary.value = states_html(routes, view.now, view.is_on)
        self._head.children = [self._open, self._summary, *([self._every] if is_open else [])]
        if is_open:
            slim = not self._every.value
            self._table.value = table(routes, view.now, view.paid, slim, view.is_on)
        self.box.children = [self._head, *([self._table] if is_open else [])]
