"""`%llm_chat`: list, show, export, load, fork and clear conversations."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ..arguments import usage, words_of
from ..command import Session, Shown, Typed, command

if TYPE_CHECKING:
    import pandas as pd

    from ..chat import Chat, Chats

_TYPES = {
    "chat": "str", "turns": "int64", "tokens": "int64", "provider": "str", "model": "str",
    "last": "datetime64[ms, UTC]", "system": "str",
}  # fmt: skip


@command()
def llm_chat(session: Session, typed: Typed) -> Shown:
    """List, show, export and edit conversations; return them as a DataFrame.

    Usage:
      %llm_chat [list]
      %llm_chat show CHAT
      %llm_chat export CHAT FILE [replace]    as Markdown (.md) or JSON (.json)
      %llm_chat load FILE [NAME]              an exported .json file
      %llm_chat fork CHAT NAME                copy it, to continue both
      %llm_chat undo CHAT                     remove its last turn
      %llm_chat clear CHAT                    remove it

    Examples:
      %llm_chat
      %llm_chat show tutor
      %llm_chat export tutor tutor.md
    """
    from arche_magic.llm_providers.errors import InvalidRequest
    from arche_magic.llm_providers.text.wording import did_you_mean

    from ..chat import export, load
    from ..styles import one_line

    chats = session.chats
    shown: dict[str, str] | str
    match words_of(llm_chat, typed.text):
        case [] | ["list"]:
            shown = _table(chats)
        case ["show", name]:
            shown = _transcript(chats.known(name))
        case ["export", name, file, *replace_file] if replace_file in ([], ["replace"]):
            chat = chats.known(name)
            path = export(chat, file, bool(replace_file))
            shown = f"Wrote {name} ({_turns(chat)}) to {path}."
        case ["load", file, *names] if len(names) <= 1:
            chat = load(file)
            again = f"; %llm_chat load {file} NAME gives it another"
            chats.add_new(names[0] if names else chat.name, chat, "load", again)
            shown = f"Loaded {chat.name} ({_turns(chat)}); %%llm --chat {chat.name} continues it."
        case ["fork", name, new]:
            chat = chats.known(name)
            chats.add_new(new, replace(chat, turns=[*chat.turns]), "fork", "; choose another name")
            shown = f"Copied {name} ({_turns(chat)}) to {new}; both continue separately."
        case ["undo", name]:
            chat = chats.known(name)
            question = chat.turns.pop().question
            if not chat.turns:
                del chats[name]
            left = _turns(chat) if chat.turns else "no turns"
            shown = f"Removed {one_line(question.content, 60)!r}; {name} has {left} left."
        case ["clear", name]:
            shown = f"Removed {name} ({_turns(chats.known(name))})."
            del chats[name]
        case [name] if name in chats:
            shown = _transcript(chats[name])
        case [verb, *_]:
            forms = {form[0]: form for form in usage(llm_chat)}
            if verb in forms or verb in chats:
                form = rf"%llm_chat \[?{verb if verb in forms else 'show'}\b.*?(?=  |$)"
                line, *_ = re.findall(form, str(llm_chat.__doc__), re.MULTILINE)
                raise InvalidRequest(f"usage: {line}")
            hint = did_you_mean(verb, [*forms, *chats])
            raise InvalidRequest(
                f"%llm_chat: {verb!r} is neither a conversation nor one of {', '.join(forms)}{hint}"
            )
    return shown, chats_frame(chats)


def _table(chats: Chats) -> dict[str, str] | str:
    from ..styles import day_and_time, one_line, table_bundle

    if not chats:
        return "no conversations yet; %%llm --chat NAME starts one"
    rows = [
        (
            chat.name,
            f"{len(chat.turns)}",
            f"{chat.tokens:,}",
            last.who,
            day_and_time(last.at),
            one_line(last.question.content, 48),
        )
        for chat in chats.values()
        for last in chat.turns[-1:]
    ]
    heads = ("chat", "turns", "tokens", "answered by", "at", "last asked")
    return table_bundle(heads, rows, right=("turns", "tokens"))


def chats_frame(chats: Chats) -> pd.DataFrame:
    """A row per conversation; `tokens` are of all turns, `provider` and `model` of the last one."""
    from arche_magic.llm_providers.types import utc

    from ..frames import typed_frame

    rows = [
        (chat.name, len(chat.turns), chat.tokens, last.provider, last.model, utc(last.at),
         chat.system)
        for chat in chats.values()
        for last in chat.turns[-1:]
    ]  # fmt: skip
    return typed_frame(_TYPES, rows)


def _transcript(chat: Chat) -> dict[str, str]:
    from arche_magic.llm_providers.text.characters import without_controls
    from arche_magic.llm_providers.text.markdown import harmless_markdown

    clean = without_controls(chat.transcript())
    return {"text/plain": clean, "text/markdown": harmless_markdown(clean)}


def _turns(chat: Chat) -> str:
    from arche_magic.llm_providers.text.wording import plural

    return plural(len(chat.turns), "turn")
