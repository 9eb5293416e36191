"""A key typed in JupyterLab is hidden, and is in no file afterwards.

Pictures are saved in `build/screens/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab_session import chromium, jupyter_lab, open_notebook, too_wide

from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from pathlib import Path


def test_a_key_typed_in_jupyterlab_is_never_visible(tmp_path: Path) -> None:
    """The box hides it, the table shows its label, and the notebook contains neither."""
    with Sandbox() as sandbox, jupyter_lab(tmp_path) as lab, chromium() as browser:
        variables = sandbox.environment()
        text = variables["GROQ_API_KEY_3"]
        given = {name: value for name, value in variables.items() if "KEY_3" not in name}
        cells = [
            f"%load_ext arche_magic\nimport os; os.environ.update({given})",
            "%llm_keys add groq",
            "%%llm -p groq\nHello",
            "%llm_keys check",
            "%llm_keys",
        ]
        lab.write("keys.ipynb", cells)
        sandbox.fail("groq_key_1", "unauthorized", times=None)
        with open_notebook(browser, lab, "keys.ipynb", 1200) as screen:
            page = screen.page
            screen.start_all()
            box = page.locator(".jp-Stdin-input")
            box.wait_for()
            assert box.get_attribute("type") == "password"
            box.fill(text)
            screen.photograph("keys-typing", 1200)
            box.press("Enter")
            page.wait_for_function(
                "() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
                ".every(p => /^\\[\\d+\\]:$/.test(p.textContent.trim()))"
            )
            table = screen.cell("%llm_keys").last.locator(".jp-RenderedHTML")
            assert "groq_key_3" in table.inner_text()
            assert "this session" in table.inner_text()
            assert "closed since" in table.inner_text()
            assert too_wide(table) <= 0
            for theme in ("Light", "Dark"):
                screen.use_theme(theme)
                screen.photograph(f"keys-{theme.lower()}", 1200)
            assert text not in page.content()
            screen.save()
        for path in tmp_path.rglob("*"):
            if path.is_file():
                assert text.encode() not in path.read_bytes(), path
        assert sandbox.requests[-1].key == "groq_key_2"
