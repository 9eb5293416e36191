"""The widgets of a panel. They share layouts and styles, since each one costs a message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.bounded import library

from ..styles import QUIET

if TYPE_CHECKING:
    import ipywidgets as widgets
else:
    widgets = library("ipywidgets")


class Parts:
    """Makes the widgets of one panel, and closes them."""

    def __init__(self) -> None:
        self._shared: dict[Any, Any] = {}

    def html(self, value: str = "", **layout: str) -> widgets.HTML:
        """HTML; the caller has escaped untrusted text in it."""
        return self._make(widgets.HTML, layout, value=value)

    def heading(self, text: str) -> widgets.HTML:
        """A quiet line above a part of the panel."""
        return self.html(f'<div style="{QUIET};margin-top:6px">{text}</div>')

    def column(self, children: Sequence[Any] = (), **layout: str) -> widgets.VBox:
        """Widgets below one another."""
        return self._make(widgets.VBox, layout, children=children)

    def row(self, children: Sequence[Any], **layout: str) -> widgets.HBox:
        """Widgets beside one another; on a narrow page they wrap."""
        layout = {"flex_flow": "row wrap", "align_items": "center", **layout}
        return self._make(widgets.HBox, layout, children=children)

    def button(self, words: str, **options: Any) -> widgets.Button:
        """A button with words on it."""
        return self._make(widgets.Button, {}, description=words, **options)

    def toggle(self, words: str, value: bool, about: str) -> widgets.ToggleButton:
        """A button that stays pressed."""
        options = {"description": words, "value": value, "tooltip": about}
        return self._make(widgets.ToggleButton, {"width": "auto"}, **options)

    def arrow(self, way: str, words: str) -> widgets.Button:
        """A small button with an arrow; the words are its name for screen readers."""
        icon = {"icon": f"arrow-{way}", "tooltip": words}
        return self._make(widgets.Button, {"width": "32px"}, **icon)

    def checkbox(self, words: str, value: bool) -> widgets.Checkbox:
        """A box to tick."""
        layout = {"width": "auto", "margin": "0 14px 0 0"}
        options = {"description": words, "value": value, "indent": False}
        return self._make(widgets.Checkbox, layout, **options)

    def dropdown(self, words: str, about: str, first: str) -> widgets.Dropdown:
        """A list to choose from, with only the first entry so far."""
        layout = {"width": "180px", "margin": "2px 18px 2px 2px"}
        options = {"description": words, "tooltip": about, "options": [first]}
        return self._make(widgets.Dropdown, layout, **options)

    def seconds(self, words: str, about: str) -> widgets.BoundedFloatText:
        """A number of seconds, up to a day."""
        options = {"min": 0, "max": 86_400, "step": 5, "description": words, "tooltip": about}
        return self._make(widgets.BoundedFloatText, {"width": "190px"}, **options)

    def text(self, words: str, about: str) -> widgets.Textarea:
        """A box for some lines of text, with a label."""
        options = {"description": words, "placeholder": about, "rows": 3}
        return self._make(widgets.Textarea, {"width": "auto"}, **options)

    def output(self) -> widgets.Output:
        """A place for cell output."""
        return widgets.Output(layout=self._one(widgets.Layout, {}))

    def close(self, boxes: Iterable[Any]) -> None:
        """Close these widgets and their children; shared layouts and styles stay."""
        for widget in boxes:
            self.close(getattr(widget, "children", ()))
            widget.close()

    def close_shared(self) -> None:
        """Close layouts and styles, at the end."""
        for part in self._shared.values():
            part.close()

    def _make(self, kind: Any, layout: dict[str, str], **options: Any) -> Any:
        style = kind.style.klass if hasattr(kind, "style") else None
        if style is not None:
            # A description is as wide as its words.
            fits = "description_width" in style.class_traits()
            options["style"] = self._one(style, {"description_width": "initial"} if fits else {})
        return kind(layout=self._one(widgets.Layout, layout), **options)

    def _one(self, kind: Any, traits: dict[str, str]) -> Any:
        key = (kind, *sorted(traits.items()))
        if key not in self._shared:
            self._shared[key] = kind(**traits)
        return self._shared[key]
