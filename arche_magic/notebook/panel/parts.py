"""The widgets of a panel. They share layouts and styles, since each one costs a message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.bounded import library

if TYPE_CHECKING:
    import ipywidgets as widgets
else:
    widgets = library("ipywidgets")

__all__ = ["Parts", "widgets"]


class Parts:
    """Makes the widgets of one panel, and closes them. The most common kinds have a method."""

    def __init__(self) -> None:
        self._made: list[Any] = []
        self._shared: dict[Any, Any] = {}

    def html(self, value: str = "", **layout: str) -> widgets.HTML:
        """HTML; the caller has escaped untrusted text in it."""
        return self.make(widgets.HTML, layout, value=value)

    def column(self, children: Sequence[Any] = (), **layout: str) -> widgets.VBox:
        """Widgets below one another."""
        return self.make(widgets.VBox, layout, children=children)

    def row(self, children: Sequence[Any], **layout: str) -> widgets.HBox:
        """Widgets beside one another; on a narrow page they wrap."""
        layout = {"flex_flow": "row wrap", "align_items": "center", **layout}
        return self.make(widgets.HBox, layout, children=children)

    def make(self, kind: Any, layout: Mapping[str, str] = {}, **traits: Any) -> Any:
        """A widget of this class, with a shared layout and style."""
        style = kind.style.klass if hasattr(kind, "style") else None
        if style is not None:
            # ipywidgets would cut long descriptions.
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
