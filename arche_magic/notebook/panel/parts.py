"""The widgets of a panel, and its meters, which are groups that open if there are many routes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.bounded import library

from ..quota import QuotaView, notes
from ..quota_table import ROUTES_UNFOLDED, by_provider, by_route, is_folded, states_html, table
from ..styles import notes_html
from ..words import Limits
from . import redraw

if TYPE_CHECKING:
    import ipywidgets as widgets
else:
    widgets = library("ipywidgets")

__all__ = ["Meters", "WidgetFactory", "widgets"]


class WidgetFactory:
    """Creates the widgets of one panel, and closes them.

    They share layouts and styles, because each of these takes a message.
    """

    def __init__(self) -> None:
        self._made: list[Any] = []
        self._shared: dict[Any, Any] = {}

    def html(self, value: str = "", **layout: str) -> widgets.HTML:
        """HTML; the caller has escaped untrusted text in it."""
        return self.make(widgets.HTML, layout, value=value)

    def column(self, children: Sequence[Any] = (), **layout: str) -> widgets.VBox:
        """A column of widgets."""
        return self.make(widgets.VBox, layout, children=children)

    def row(self, children: Sequence[Any], **layout: str) -> widgets.HBox:
        """A row of widgets, which wraps on a narrow page."""
        layout = {"flex_flow": "row wrap", "align_items": "center", **layout}
        return self.make(widgets.HBox, layout, children=children)

    def make(self, kind: Any, layout: Mapping[str, str] = {}, **traits: Any) -> Any:
        """A widget of this class, with a shared layout and style."""
        style = kind.style.klass if hasattr(kind, "style") else None
        if style is not None:
            # Otherwise, ipywidgets would cut off long descriptions.
            fits = "description_width" in style.class_traits()
            traits["style"] = self._one(style, {"description_width": "initial"} if fits else {})
        self._made.append(kind(layout=self._one(widgets.Layout, layout), **traits))
        return self._made[-1]

    def close(self, boxes: Iterable[Any]) -> None:
        """Close these widgets and their children; shared layouts and styles stay."""
        for widget in boxes:
            self.close(getattr(widget, "children", ()))
            widget.close()

    def close_all(self) -> None:
        """Close every widget, layout and style."""
        for part in (*self._made, *self._shared.values()):
            part.close()

    def _one(self, kind: Any, traits: Mapping[str, str]) -> Any:
        key = (kind, *sorted(traits.items()))
        if key not in self._shared:
            self._shared[key] = kind(**traits)
        return self._shared[key]


class Meters:
    """The meters of one panel; `box` is the widget that shows them."""

    def __init__(self, parts: WidgetFactory) -> None:
        self._parts = parts
        self._whole, self._notes = parts.html(), parts.html()
        self._groups: dict[str, _Group] = {}
        self.box = parts.column([self._whole, self._notes])

    def draw(self, view: QuotaView) -> None:
        """Show this view; widgets send only changes."""
        self._notes.value = notes_html(notes(view))
        routes = by_route(view.standings)
        if not is_folded(routes):
            self._whole.value = table(routes, view.now, view.paid, is_on=view.is_on)
            self.box.children = [self._whole, self._notes]
            return
        groups = by_provider(routes)
        for name, limits in groups.items():
            if name not in self._groups:
                title = view.configuration.providers[name].title
                self._groups[name] = _Group(self._parts, title, len(routes) <= ROUTES_UNFOLDED)
            self._groups[name].draw(view, limits)
        self.box.children = [*(self._groups[name].box for name in groups), self._notes]


class _Group:
    """The routes of one provider: a line that opens to a table."""

    def __init__(self, parts: WidgetFactory, title: str, is_open: bool) -> None:
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
