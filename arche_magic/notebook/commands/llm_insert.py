"""`%llm_insert`: the last reply as the next cell."""

from __future__ import annotations

from ..command import Session, Typed, command


@command()
def llm_insert(session: Session, typed: Typed) -> None:
    """Put the last reply into a new cell below, without running it.

    By default, it inserts the code of the reply, or the text if there is no code.

    Usage:
      %llm_insert
      %llm_insert code         the Python code, or else the code of the first language
      %llm_insert markdown     the text, in a %%markdown cell

    Examples:
      %llm_insert
      %llm_insert markdown
    """
    from arche_magic.llm_providers.errors import InvalidRequest
    from arche_magic.llm_providers.text.characters import without_controls
    from arche_magic.llm_providers.text.markdown import harmless_markdown

    what = typed.text.strip()
    if what not in ("", "code", "markdown"):
        raise InvalidRequest(f"%llm_insert: {what!r} is neither code nor markdown")
    reply = session.last_reply("%llm_insert")
    code = without_controls(reply.code)
    if what == "code" and not code:
        raise InvalidRequest(
            "%llm_insert: there is no code in the last reply; %llm_insert markdown inserts its text"
        )
    if what == "markdown" or not code:
        # The next cell would run a script in the text of a model.
        code = f"%%markdown\n{harmless_markdown(without_controls(str(reply)))}"
    session.shell.set_next_input(code)
