"""`%llm_panel`: what every route has left, live; switches and order of the routes; a prompt box.

The panel is only a view: it shows the ledger, changes the session's settings, and sends prompts
like any cell. While panels or the status bar are visible, a thread redraws them. The engine is
imported inside functions, because unloading the extension imports this module too.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..status_bar import StatusBar
    from .widgets import Panel

_SECONDS = 1.0

# This lock is held while something is drawn or a setting changes.
lock = threading.RLock()
_shown: list[Panel | StatusBar] = []
_changed = threading.Event()
_thread: threading.Thread | None = None


def close_all() -> None:
    """Close every panel of this kernel and stop their prompts."""
    for panel in open_panels():
        panel.close()


def open_panels() -> list[Panel | StatusBar]:
    """The panels that are not closed, and the status bar while a page shows it."""
    with lock:
        return list(_shown)


def start_drawing(panel: Panel | StatusBar) -> None:
    """Redraw this panel from now on."""
    global _thread
    with lock:
        _shown.append(panel)
        if _thread is None or not _thread.is_alive():
            # A daemon: it must not keep a kernel from ending.
            _thread = threading.Thread(target=_run, name="arche_magic panel", daemon=True)
            _thread.start()


def stop_drawing(panel: Panel | StatusBar) -> None:
    """Stop redrawing this panel; the thread ends with the last one."""
    with lock:
        if panel in _shown:
            _shown.remove(panel)
    _changed.set()


def redraw() -> None:
    """Redraw all visible panels now.

    Called by the thread, and after each change of a setting, so that all panels always agree.
    """
    from arche_magic.llm_providers.errors import LLMProviderError

    from ..quota import current_quota

    with lock:
        visible = [panel for panel in _shown if panel.visible]
        if not visible:
            return
        try:
            view = current_quota()
        except LLMProviderError:
            # The settings file is incomplete or the store is unavailable, so the display does not
            # change.
            return
        for panel in visible:
            panel.draw(view)


def _run() -> None:
    global _thread
    while True:
        _changed.wait(_SECONDS)
        _changed.clear()
        with lock:
            if not _shown:
                _thread = None
                return
        redraw()
