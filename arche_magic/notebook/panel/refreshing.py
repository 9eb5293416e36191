"""The open panels and the status bar, and the thread that redraws them while there are any."""

from __future__ import annotations

import threading
from typing import Protocol

from arche_magic.llm_providers.errors import LLMProviderError

from .view import View, look

_SECONDS = 1.0


class Drawn(Protocol):
    """The methods of a panel, or of the status bar, that this module uses."""

    @property
    def visible(self) -> bool:
        """Whether a page shows it."""
        ...

    def draw(self, view: View) -> None:
        """Show this view; only changes are sent."""
        ...

    def close(self) -> None:
        """Close the panel."""
        ...


_panels: list[Drawn] = []
lock = threading.RLock()
_changed = threading.Event()
_thread: threading.Thread | None = None


def open_panels() -> list[Drawn]:
    """The panels that are not closed."""
    with lock:
        return list(_panels)


def opened(panel: Drawn) -> None:
    """Redraw this panel from now on."""
    global _thread
    with lock:
        _panels.append(panel)
        if _thread is None:
            # A daemon: it must not keep a kernel from ending.
            _thread = threading.Thread(target=_run, name="arche_magic panel", daemon=True)
            _thread.start()


def closed(panel: Drawn) -> None:
    """Stop redrawing this panel; the thread ends with the last one."""
    with lock:
        if panel in _panels:
            _panels.remove(panel)
    _changed.set()


def redraw() -> None:
    """Redraw all visible panels now.

    Called by the thread, and after each change of a setting, so that all panels agree at once.
    """
    with lock:
        visible = [panel for panel in _panels if panel.visible]
        if not visible:
            return
        try:
            view = look()
        except LLMProviderError:
            # A settings file is half written or the store is away: the display stays as it is.
            return
        for panel in visible:
            panel.draw(view)


def _run() -> None:
    global _thread
    try:
        while True:
            _changed.wait(_SECONDS)
            _changed.clear()
            with lock:
                if not _panels:
                    _thread = None
                    return
            redraw()
    except BaseException:
        # The next panel starts another one.
        with lock:
            _thread = None
        raise
