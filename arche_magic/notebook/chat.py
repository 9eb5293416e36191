"""Named conversations: their turns, cut to what a model accepts, and their files.

They are kept in the kernel's memory. A turn is added when its reply is complete. A turn that failed
or was interrupted is not added.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.files import expanded
from arche_magic.llm_providers.options import check_for_keys
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.request import Image, Message, read_image
from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.text.markdown import harmless_markdown
from arche_magic.llm_providers.text.wording import did_you_mean, plural
from arche_magic.llm_providers.types import utc

from .command import CHAT_NAME, CHAT_NAME_RULE
from .frames import typed_frame
from .styles import day_and_time, one_line, table_bundle

if TYPE_CHECKING:
    import pandas as pd

_TYPES = {
    "chat": "str", "turns": "int64", "tokens": "int64", "provider": "str", "model": "str",
    "last": "datetime64[ms, UTC]", "system": "str",
}  # fmt: skip
# Token estimates are within 15 % for most texts, and the reply needs room too.
_USABLE = 0.8
# Errors of reading a file that is not an exported conversation.
_MALFORMED = (
    ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """A question, its answer, the model that answered, and when (epoch seconds)."""

    question: Message
    answer: str
    provider: str = ""
    model: str = ""
    tokens: int = 0
    at: float = 0.0

    @property
    def who(self) -> str:
        """The provider and the model that answered, in short."""
        return f"{self.provider} · {self.model.rpartition('/')[2]}"


@dataclass
class Chat:
    """A conversation. `private` is true after a private turn; later turns are then private by
    default.

    `system` is its own system prompt, if it has one.
    """

    name: str
    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    private: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of all turns."""
        return sum(turn.tokens for turn in self.turns)

    @property
    def size(self) -> str:
        """The number of turns, in words."""
        return plural(len(self.turns), "turn")

    def messages(self, question: Message, room: float) -> tuple[tuple[Message, ...], str]:
        """The messages for the next question, and a note about omitted turns, if any.

        The oldest turns are omitted until the rest fits into a share of `room` (tokens).
        """
        left = room * _USABLE - question.tokens - Message("system", self.system or "").tokens
        kept: list[Turn] = []
        for turn in reversed(self.turns):
            left -= turn.question.tokens + Message("assistant", turn.answer).tokens
            if left < 0:
                break
            kept.insert(0, turn)
        note = ""
        if missing := len(self.turns) - len(kept):
            which = "oldest turn was" if missing == 1 else f"{missing} oldest turns were"
            note = f"{self.name}: the {which} not sent, because only {room:,.0f} tokens fit"
        said = [m for t in kept for m in (t.question, Message("assistant", t.answer))]
        return (*said, question), note

    def add(
        self, question: Message, reply: Reply, system: str | None, private: bool | None
    ) -> Turn:
        """Add a turn that was answered, with its system prompt, if any, and its privacy."""
        self.private = self.private or bool(private)
        self.system = self.system if system is None else system or None
        tokens = reply.usage.total_tokens
        turn = Turn(question, str(reply), reply.provider, reply.model, tokens, time.time())
        self.turns.append(turn)
        return turn

    def without(self, turn: Turn | None) -> Chat:
        """A copy without this turn, if it is the last one."""
        is_last = bool(self.turns) and self.turns[-1] is turn
        return replace(self, turns=self.turns[:-1] if is_last else [*self.turns])

    def transcript(self) -> str:
        """The conversation as Markdown: questions as quotes, answers followed by their model."""
        head = f"*{self.system}*\n\n" if self.system else ""
        return head + _as_markdown(self.turns)

    def to_json(self) -> str:
        """The conversation as JSON, with its images."""
        turns = [
            {
                "question": turn.question.content,
                "images": [base64.b64encode(image.data).decode() for image in turn.question.images],
                "answer": turn.answer,
                "provider": turn.provider,
                "model": turn.model,
                "tokens": turn.tokens,
                "at": utc(turn.at).isoformat(),
            }
            for turn in self.turns
        ]
        whole = {
            "chat": self.name, "system": self.system, "private": self.private, "turns": turns,
        }  # fmt: skip
        return json.dumps(whole, indent=1, ensure_ascii=False)

    def extends_markdown(self, old: str) -> bool:
        """Whether a transcript is of an earlier state; its system prompt may be another."""
        head, found, rest = old.partition(_as_markdown(self.turns[:1]))
        is_head = not head or (head.startswith("*") and head.endswith("*\n\n"))
        return is_head and _as_markdown(self.turns).startswith(f"{found}{rest}".removesuffix("\n"))

    def extends_json(self, old: str) -> bool:
        """Whether a JSON text is of an earlier state; its system prompt may be another."""
        try:
            before, now = json.loads(old), json.loads(self.to_json())
            turns = before["turns"]
            return bool(turns) and now["turns"][: len(turns)] == turns and not before.keys() - now
        except _MALFORMED:
            return False

    @classmethod
    def from_json(cls, text: str) -> Chat:
        """The conversation that `to_json` wrote; raises one of `_MALFORMED` for another text."""
        whole = json.loads(text)
        turns = [
            Turn(
                Message("user", _text(entry["question"]), _images(entry["images"])),
                _text(entry["answer"]),
                _text(entry["provider"]),
                _text(entry["model"]),
                int(entry["tokens"]),
                datetime.fromisoformat(entry["at"]).timestamp(),
            )
            for entry in whole["turns"]
        ]
        if not turns:
            raise ValueError("a conversation cannot be empty")
        system, private = whole["system"], bool(whole.get("private", False))
        return cls(_text(whole["chat"]), system and _text(system), turns, private)


class Chats(dict[str, Chat]):
    """The conversations of a kernel, by name."""

    def named(self, name: str) -> Chat:
        """The conversation with this name, or a new one, which is stored when it has a turn."""
        if not CHAT_NAME.fullmatch(name):
            raise InvalidRequest(f"--chat {name!r}: {CHAT_NAME_RULE}")
        check_for_keys(name, get_configuration().keys)
        return self.get(name) or Chat(name)

    def known(self, name: str) -> Chat:
        """The conversation with this name; raises InvalidRequest if there is none."""
        if name not in self:
            raise InvalidRequest(
                f"%llm_chat: unknown conversation {name!r}{did_you_mean(name, self)}; "
                "%llm_chat lists them"
            )
        return self[name]

    def add_new(self, name: str, chat: Chat, verb: str, hint: str) -> None:
        """Add a conversation under a new name; `verb` and `hint` are for the error message."""
        chat.name = self.named(name).name
        if name in self:
            raise InvalidRequest(f"%llm_chat {verb}: a conversation {name!r} already exists{hint}")
        self[name] = chat


def export(chat: Chat, file: str, replace_file: bool) -> Path:
    """Write a conversation to a file, as Markdown or as JSON by its ending; returns its path.

    A file with an earlier state of the conversation is replaced, since no turn is lost.

    Raises:
        InvalidRequest: its name ends differently, it cannot be written, or exists already.
    """
    path = expanded(file)
    if path.suffix not in (".md", ".json"):
        raise InvalidRequest("%llm_chat export: the file's name must end in .md or .json")
    is_markdown = path.suffix == ".md"
    text = f"{chat.transcript() if is_markdown else chat.to_json()}\n".encode()
    try:
        if not replace_file and path.is_file():
            # Bytes, because line ends in replies do not change.
            old = path.read_bytes().decode(errors="replace")
            replace_file = chat.extends_markdown(old) if is_markdown else chat.extends_json(old)
        with path.open("wb" if replace_file else "xb") as opened:
            opened.write(text)
    except FileExistsError:
        raise InvalidRequest(
            f"%llm_chat export: {path} already exists, and it is not an earlier state of this "
            "conversation; put the word replace after its name to replace it"
        ) from None
    except OSError as error:
        raise InvalidRequest(f"%llm_chat export: {path}: {error.strerror}") from None
    return path


def load(file: str) -> Chat:
    """The conversation in an exported JSON file; raises InvalidRequest for another file."""
    path = expanded(file)
    try:
        return Chat.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequest(f"%llm_chat load: {path}: {error.strerror}") from None
    except _MALFORMED:
        raise InvalidRequest(
            f"%llm_chat load: {path} is not a .json file that %llm_chat export wrote"
        ) from None


def chats_bundle(chats: Chats) -> dict[str, str] | str:
    """A table with a row per conversation."""
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
    rows = [
        (chat.name, len(chat.turns), chat.tokens, last.provider, last.model, utc(last.at),
         chat.system)
        for chat in chats.values()
        for last in chat.turns[-1:]
    ]  # fmt: skip
    return typed_frame(_TYPES, rows)


def transcript_bundle(chat: Chat) -> dict[str, str]:
    """The whole conversation, harmless whatever the models have written."""
    clean = without_controls(chat.transcript())
    return {"text/plain": clean, "text/markdown": harmless_markdown(clean)}


def _as_markdown(turns: Iterable[Turn]) -> str:
    parts = []
    for turn in turns:
        images = [f"[{image}]" for image in turn.question.images]
        lines = [*turn.question.content.strip("\n").split("\n"), *images]
        parts.append("\n".join(f"> {line}".rstrip() for line in lines))
        parts.append(turn.answer.strip("\n"))
        parts.append(f"*{turn.who} · {turn.tokens:,} tokens · {day_and_time(turn.at)}*")
    return "\n\n".join(parts)


def _images(texts: Iterable[str]) -> tuple[Image, ...]:
    return tuple(read_image(base64.b64decode(text)) for text in texts)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text is expected")
    return value
