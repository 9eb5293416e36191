"""One panel: ipywidgets that show a `QuotaView`. Clicks change the settings of the session."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from IPython.display import display

from arche_magic.llm_providers.config import (
    Choices,
    Configuration,
    get_choices,
    get_configuration,
    use_choices,
)
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.types import name_in_words
from arche_magic.prompts import fill

from ..cell import first_given
from ..display import for_frontends
from ..quota import QuotaView, current_quota, view_bundle
from ..receipt import receipt_bundle
from ..reply_formats import reply_bundle
from ..styles import QUIET, escape
from . import lock, open_panels, redraw, start_drawing, stop_drawing
from .parts import Meters, PanelPrompt, WidgetFactory, widgets
from .view import attempts_html, next_html, prompt_options

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ..command import Session

_WIDGET = "application/vnd.jupyter.widget-view+json"
# Seconds between updates of the static table, if there was an attempt or a change of settings.
_RECORD_SECONDS = 30.0
# How long after a click on an arrow the focus is restored to it.
_FOCUS_SECONDS = 3.0
_NOBODY = "no provider"
_HEADING = f'<div style="{QUIET};margin-top:6px">'


class Panel:
    """A panel in the output of one cell; its prompts use the defaults of the session."""

    def __init__(self, session: Session) -> None:
        self._session, self._defaults = session, session.defaults
        self._cell = _running_cell(session.shell)
        self._name = f"arche-panel-{os.urandom(4).hex()}"
        self._view = current_quota()
        self._groups: dict[str, tuple[list[str], list[str]]] = {}
        self._rows: dict[str, Any] = {}
        self._switches: dict[str, Any] = {}
        self._parts = WidgetFactory()
        self._asking: PanelPrompt | None = None
        self._pressed: tuple[Any, float] = (None, 0.0)
        self._closed = False
        self._seen = False
        self._record: QuotaView | None = None
        self._make_controls()
        self._root = self._lay_out()
        self.draw(self._view)

    @property
    def visible(self) -> bool:
        """Whether a page shows it or is about to show it."""
        return not self._closed and (self._root._view_count != 0 or not self._seen)

    def show(self) -> None:
        """Show it in the running cell, with a static table for the saved notebook."""
        for other in open_panels():
            # The cell ran again, so the page no longer shows its earlier panel.
            if isinstance(other, Panel) and self._cell and other._cell == self._cell:
                other.close()
        plain = "The panel works while this notebook's kernel is running."
        shown = {"version_major": 2, "version_minor": 0, "model_id": self._root.model_id}
        display({_WIDGET: shown, "text/plain": plain}, raw=True)
        self._keep_record(self._view)
        start_drawing(self)

    def close(self) -> None:
        """Remove it from the page and stop its prompt."""
        self._closed = True
        if self._asking:
            self._asking.stop()
        stop_drawing(self)
        self._parts.close_all()

    def draw(self, view: QuotaView) -> None:
        """Show this view; widgets send only changes."""
        self._view = view
        groups, replaced = _groups(view.configuration), []
        if groups != self._groups:
            replaced = [*self._rows.values()]
            self._build_switches(view, groups)
        self._next.value = next_html(view, self._prompt.value, self._defaults)
        self._tables.draw(view)
        if self._is_record_old(view):
            self._keep_record(view)
        self._attempts.value = attempts_html(view)
        for name, box in self._switches.items():
            box.value = name not in view.configuration.off
        self._order.children = [self._rows[name] for name in groups]
        self._parts.close(replaced)
        preferred = view.configuration.preferred_provider
        self._preferred.value = preferred if preferred in groups else _NOBODY
        self._patience.value = self._patience_of(view)

    def _is_record_old(self, view: QuotaView) -> bool:
        # Counts that recover with time are ignored, because they would change the notebook all day.
        if self._record is None or view.now - self._record.now < _RECORD_SECONDS:
            return False
        now, then = view.configuration, self._record.configuration
        return (view.attempts, now.off, now.keys) != (self._record.attempts, then.off, then.keys)

    def _keep_record(self, view: QuotaView) -> None:
        record = view_bundle(view)
        record["text/html"] = f'<div class="{self._name}">{record["text/html"]}</div>'
        display(
            for_frontends(record), raw=True, display_id=self._name, update=self._record is not None
        )
        self._record = view

    def _make_controls(self) -> None:
        parts = self._parts
        self._next, self._tables, self._attempts = parts.html(), Meters(parts), parts.html()
        self._order = parts.column()
        self._preferred = parts.make(
            widgets.Dropdown, {"width": "180px"}, options=[_NOBODY],
            description="Prefer", tooltip="Asked before all others, paid or not",
        )  # fmt: skip
        self._patience = parts.make(
            widgets.BoundedFloatText, {"width": "190px"}, min=0, max=86_400, step=5,
            description="Patience, seconds",
            tooltip="How long to wait for a route instead of failing or paying",
        )  # fmt: skip
        self._prompt = parts.make(
            widgets.Textarea, {"width": "auto"}, rows=3,
            description="Prompt", placeholder="Type a prompt; Tab moves to Send",
        )  # fmt: skip
        # The button is never disabled, because a disabled button loses the keyboard focus.
        self._send = parts.make(widgets.Button, description="Send", button_style="primary")
        self._stop = parts.make(widgets.Button, description="Stop")
        about = "Use all keys and models again"
        self._all_on = parts.make(widgets.Button, description="Turn everything on", tooltip=about)
        self._all_on.on_click(lambda _: _choose(lambda choices: replace(choices, off=frozenset())))
        self._line, self._reply = parts.html(), parts.make(widgets.Output)
        self._patience.observe(self._wait, "value")
        self._prompt.observe(lambda _: redraw(), "value")
        self._send.on_click(lambda _: self._ask())
        self._stop.on_click(lambda _: self._stop_asking())

    def _lay_out(self) -> Any:
        parts = self._parts
        # Hides the static table while the panel is on the page.
        hide = parts.html(f"<style>.{self._name}{{display:none}}</style>", height="0")
        switches = [
            parts.html(f"{_HEADING}Order and switches</div>"),
            self._order,
            parts.row([self._preferred, self._patience, self._all_on], grid_gap="0 8px"),
        ]
        attempts = [parts.html(f"{_HEADING}Last attempts</div>"), self._attempts]
        root = parts.column(
            [
                hide,
                self._next,
                self._tables.box,
                self._prompt,
                parts.row([self._send, self._stop, self._line]),
                self._reply,
                parts.row(
                    [parts.column(switches, margin="0 40px 0 0"), parts.column(attempts)],
                    align_items="flex-start",
                ),
            ]
        )
        # The extension of JupyterLab finds the box and the button by these names.
        root.add_class("arche-panel")
        self._send.add_class("arche-send")
        # Pages add their views to this count.
        root._view_count = 0
        root.observe(self._count_views, "_view_count")
        return root

    def _build_switches(
        self, view: QuotaView, groups: dict[str, tuple[list[str], list[str]]]
    ) -> None:
        self._groups, self._rows, self._switches = groups, {}, {}
        for name, (labels, models) in groups.items():
            title = view.configuration.providers[name].title
            boxes = {
                switch: self._parts.make(
                    widgets.Checkbox, {"width": "auto", "margin": "0 14px 0 0"}, indent=False,
                    # The name includes the provider, so that a screen reader distinguishes the
                    # controls.
                    description=name_in_words(switch), value=switch not in view.configuration.off,
                )
                for switch in (*labels, *(f"{name}/{model}" for model in models))
            }  # fmt: skip
            for switch, box in boxes.items():
                box.observe(self._switcher(switch), "value")
            self._switches |= boxes
            self._rows[name] = self._parts.row(
                [
                    self._mover(name, -1, "up", f"Ask {title} earlier"),
                    self._mover(name, 1, "down", f"Ask {title} later"),
                    self._parts.row([*boxes.values()], flex="1 1 300px", margin="0 0 0 10px"),
                ],
                align_items="flex-start",
            )
        # Setting new options selects the first entry automatically, which must not count as a
        # choice.
        self._preferred.unobserve_all("value")
        self._preferred.options = [_NOBODY, *groups]
        self._preferred.observe(self._prefer, "value")

    def _mover(self, name: str, by: int, way: str, words: str) -> Any:
        # The tooltip is its name for screen readers.
        icon = {"icon": f"arrow-{way}", "tooltip": words}
        button = self._parts.make(widgets.Button, {"width": "32px"}, **icon)
        button.on_click(lambda _: self._move(name, by, button))
        # Pages count their views of this button.
        button._view_count = 0
        button.observe(lambda change: self._focus(button, change["new"]), "_view_count")
        return button

    def _focus(self, button: Any, views: int) -> None:
        """Restore the focus of the pressed arrow, because its row was redrawn in another place."""
        pressed, at = self._pressed
        if button is pressed and views and time.monotonic() < at + _FOCUS_SECONDS:
            button.focus()

    def _move(self, name: str, by: int, button: Any) -> None:
        self._pressed = button, time.monotonic()

        def moved(choices: Choices) -> Choices:
            order = list(_groups(get_configuration()))
            place = order.index(name) + by if name in order else -1
            if not 0 <= place < len(order):
                return choices
            order.remove(name)
            order.insert(place, name)
            return replace(choices, order=tuple(order))

        _choose(moved)

    def _switcher(self, name: str) -> Callable[[Any], None]:
        return lambda change: _choose(lambda choices: choices.switched(name, change["new"]))

    def _prefer(self, change: Any) -> None:
        name = None if change["new"] in (None, _NOBODY) else change["new"]
        if name != self._view.configuration.preferred_provider:
            _choose(lambda choices: replace(choices, preferred_provider=name))

    def _wait(self, change: Any) -> None:
        if change["new"] != self._patience_of(self._view):
            # Otherwise, the default would take precedence.
            self._defaults.patience = None
            _choose(lambda choices: replace(choices, patience=change["new"]))

    def _patience_of(self, view: QuotaView) -> float:
        """The patience of the next prompt, or the most that the control can show."""
        patience = first_given(self._defaults.patience, view.configuration.patience)
        return float(min(patience, self._patience.max))

    def _ask(self) -> None:
        if self._asking and self._asking.busy:
            return
        try:
            with self._session.noting_unsent():
                names = self._session.shell.user_ns
                prompt = fill(self._prompt.value, names, self._defaults.budget)
        except InvalidRequest as error:
            self._asking = None
            self._show_answer(f"{type(error).__name__}: {error}")
            return
        options = prompt_options(self._defaults)
        self._asking = PanelPrompt(self._session, prompt, options, self._show_answer)
        self._asking.start()

    def _stop_asking(self) -> None:
        if self._asking and self._asking.busy:
            self._asking.stop()
            is_part = bool(self._asking.text)
            self._show_answer("stopped: the reply is not complete" if is_part else "stopped")

    def _show_answer(self, line: str, reply: Reply | None = None) -> None:
        """Show the text of the prompt's reply so far, a line about it, and finally the receipt."""
        busy, text = (self._asking.busy, self._asking.text) if self._asking else (False, "")
        self._send.button_style = "" if busy else "primary"
        self._stop.button_style = "primary" if busy else ""
        style = f"{QUIET};line-height:1.35"
        self._line.value = f'<div role="status" style="{style}">{escape(line)}</div>'
        # Markdown only: each draw sends the whole text again.
        outputs = [{"text/markdown": reply_bundle(text)["text/markdown"]}] if text else []
        if reply is not None:
            outputs.append(for_frontends(receipt_bundle(reply)))
        self._reply.outputs = tuple(
            {"output_type": "display_data", "data": data, "metadata": {}} for data in outputs
        )
        if not busy:
            redraw()

    def _count_views(self, change: Any) -> None:
        self._seen = self._seen or change["new"] > 0
        if change["new"] > 0:
            redraw()


def _groups(configuration: Configuration) -> dict[str, tuple[list[str], list[str]]]:
    """Providers that have keys, in order: labels of their keys, and their models."""
    return {
        name: (labels, list(provider.models))
        for name, provider in configuration.providers.items()
        if (labels := [key.label for key in configuration.keys if key.provider == name])
    }


def _choose(change: Callable[[Choices], Choices]) -> None:
    """Change a setting of the session, and redraw every panel.

    Drawing sets switches to their current values, which changes nothing. The lock prevents an older
    view that is being drawn from undoing the change.
    """
    with lock:
        choices = change(get_choices())
        if choices != get_choices():
            use_choices(choices)
            redraw()


def _running_cell(shell: InteractiveShell) -> str:
    """The frontend's id of the running cell, or "" if it sends none."""
    parent = getattr(shell, "kernel").get_parent()  # noqa: B009  # only ipykernel's has one
    return str(parent.get("metadata", {}).get("cellId", ""))
