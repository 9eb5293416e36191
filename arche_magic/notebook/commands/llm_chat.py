"""`%llm_chat`: list, show, export, load, fork and clear conversations."""

from __future__ import annotations

import re
from dataclasses import replace

from ..arguments import usage, words_of
from ..command import Session, Shown, Typed, command


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

    from ..chat import chats_bundle, chats_frame, export, load, transcript_bundle
    from ..styles import one_line

    chats = session.chats
    shown: dict[str, str] | str
    match words_of(llm_chat, typed.text):
        case [] | ["list"]:
            shown = chats_bundle(chats)
        case ["show", name]:
            shown = transcript_bundle(chats.known(name))
        case ["export", name, file, *replace_file] if replace_file in ([], ["replace"]):
            chat = chats.known(name)
            path = export(chat, file, bool(replace_file))
            shown = f"Wrote {name} ({chat.size}) to {path}."
        case ["load", file, *names] if len(names) <= 1:
            chat = load(file)
            again = f"; %llm_chat load {file} NAME gives it another"
            chats.add_new(names[0] if names else chat.name, chat, "load", again)
            shown = f"Loaded {chat.name} ({chat.size}); %%llm --chat {chat.name} continues it."
        case ["fork", name, new]:
            chat = chats.known(name)
            chats.add_new(new, replace(chat, turns=[*chat.turns]), "fork", "; choose another name")
            shown = f"Copied {name} ({chat.size}) to {new}; both continue separately."
        case ["undo", name]:
            chat = chats.known(name)
            question = chat.turns.pop().question
            if not chat.turns:
                del chats[name]
            left = chat.size if chat.turns else "no turns"
            shown = f"Removed {one_line(question.content, 60)!r}; {name} has {left} left."
        case ["clear", name]:
            shown = f"Removed {name} ({chats.known(name).size})."
            del chats[name]
        case [name] if name in chats:
            shown = transcript_bundle(chats[name])
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
