"""The parts of a panel: its widgets, its meters, and the prompt that it has sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.errors import LLMProviderError
from arche_magic.llm_providers.events import Discarded, Started, Waiting
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.request import Message
from arche_magic.llm_providers.stopping import stopped_by
from arche_magic.prompts import Prompt

from .. import live_line
from ..display import Pace
from ..live_line import LiveLine, follow
from ..quota import QuotaView, notes
from ..quota_table import ROUTES_UNFOLDED, by_provider, is_folded, states_html, table
from ..styles import notes_html
from ..words import RouteQuota
from . import redraw

if TYPE_CHECKING:
    import ipywidgets as widgets

    from ..command import Session
else:
    widgets = library("ipywidgets")

__all__ = ["Meters", "PanelPrompt", "WidgetFactory", "widgets"]


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
    """The meters of one panel, in groups that open if there are many routes.

    `box` is the widget that shows them.
    """

    def __init__(self, parts: WidgetFactory) -> None:
        self._parts = parts
        self._whole, self._notes = parts.html(), parts.html()
        self._groups: dict[str, _Group] = {}
        self.box = parts.column([self._whole, self._notes])

    def draw(self, view: QuotaView) -> None:
        """Show this view; widgets send only changes."""
        self._notes.value = notes_html(notes(view))
        routes = view.routes
        if not is_folded(routes):
            self._whole.value = table(routes)
            self.box.children = [self._whole, self._notes]
            return
        groups = by_provider(routes)
        for name, group in groups.items():
            if name not in self._groups:
                title = view.configuration.providers[name].title
                self._groups[name] = _Group(self._parts, title, len(routes) <= ROUTES_UNFOLDED)
            self._groups[name].draw(group)
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

    def draw(self, routes: Sequence[RouteQuota]) -> None:
        is_open = self._open.value
        self._open.icon = "caret-down" if is_open else "caret-right"
        self._summary.value = states_html(routes)
        self._head.children = [self._open, self._summary, *([self._every] if is_open else [])]
        if is_open:
            self._table.value = table(routes, slim=not self._every.value)
        self.box.children = [self._head, *([self._table] if is_open else [])]


class PanelPrompt:
    """One prompt, sent by a thread so that the kernel stays free.

    `show` is called with a line about the prompt for each change to draw, and at the end with the
    reply. It is called from another thread, until the prompt is stopped.

    Attributes:
        text: the text so far.
        busy: whether the prompt is running.
    """

    def __init__(
        self,
        session: Session,
        prompt: Prompt,
        options: Mapping[str, Any],
        show: Callable[[str, Reply | None], None],
    ) -> None:
        self.text, self.busy = "", True
        self._session, self._prompt, self._options, self._show = session, prompt, options, show
        # This lock is held while something is shown, so that nothing is shown after `stop`.
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._pace = Pace()
        self._line = LiveLine(self._draw_line)

    def start(self) -> None:
        """Send the prompt."""
        self._tell("asking …")
        threading.Thread(target=self._run, name="arche_magic prompt", daemon=True).start()

    def stop(self) -> None:
        """Stop the prompt: its connection is closed, and its tokens so far are counted."""
        with self._lock:
            self.busy = False
            self._stopped.set()

    def _run(self) -> None:
        self._line.say(live_line.choosing)
        reply = None
        try:
            with stopped_by(self._stopped), self._session.noting_unsent():
                question = Message("user", self._prompt.text, self._prompt.images)
                events = IntelligentLLMOrchestrator().events([question], **self._options)
                reply = follow(events, self)
        except KeyboardInterrupt:
            return
        except LLMProviderError as error:
            line = f"{type(error).__name__}: {error}"
        else:
            self.text, line = str(reply), "; ".join(self._prompt.notes)
        finally:
            self._line.end()
        self._tell(line, reply, busy=False)

    def before(self, event: Waiting | Started) -> None:
        """Show which route the request waits for or asks."""
        self._line.say(live_line.line_of(event))

    def add(self, text: str) -> None:
        """Add the next text of the reply."""
        self._line.silence()
        self.text += text
        self._draw()

    def start_over(self, event: Discarded) -> None:
        """Discard the text so far, because the reply starts over."""
        self.text = ""
        self._draw()

    def _draw_line(self, line: str) -> None:
        if line:
            self._tell(f"⏳ {line}")

    def _draw(self) -> None:
        if self._pace.is_due(len(self.text)):
            self._tell("answering …")

    def _tell(self, line: str, reply: Reply | None = None, *, busy: bool = True) -> None:
        with self._lock:
            if not self._stopped.is_set():
                self.busy = busy
                self._show(line, reply)
