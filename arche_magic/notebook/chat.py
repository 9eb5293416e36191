"""Named conversations: their turns, cut to what a model accepts, and the `%llm_chat` commands.

They live in the kernel's memory. A turn is added once its reply is complete; a turn that failed or
was interrupted is not added.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.files import expanded
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.request import Message, read_image
from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.text.hints import did_you_mean
from arche_magic.llm_providers.text.markdown import harmless_markdown
from arche_magic.llm_providers.types import utc

from .styles import one_line
from .tables import Cell, table_bundle

if TYPE_CHECKING:
    import pandas as pd

_NAME = re.compile(r"[\w.-]+")
_VERBS = ("list", "show", "export", "load", "fork", "undo", "clear")
_TYPES = {
    "chat": "str", "turns": "int64", "tokens": "int64", "provider": "str", "model": "str",
    "last": "datetime64[ms, UTC]", "system": "str",
}  # fmt: skip
# Token estimates are within 15 % for most texts, and the reply needs room too.
_USABLE = 0.8


@dataclass(frozen=True)
class Turn:
    """A question, its answer, and who answered when (epoch seconds)."""

    question: Message
    answer: str
    provider: str = ""
    model: str = ""
    tokens: int = 0
    at: float = 0.0


@dataclass
class Chat:
    """A conversation; `system` is its system prompt, if it has one of its own.

    `private` is true once a turn was private: later turns are then private by default.
    """

    name: str
    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    private: bool = False

    def messages(self, question: Message, room: float) -> tuple[tuple[Message, ...], str]:
        """The messages that continue with a question, and a note about turns left out, if any.

        The oldest turns are left out until the rest fits into a share of `room` (tokens).
        """
        left = room * _USABLE - question.tokens - Message("system", self.system or "").tokens
        kept: list[Turn] = []
        for turn in reversed(self.turns):
            left -= turn.question.tokens + Message("assistant", turn.answer).tokens
            if left < 0:
                break
            kept.insert(0, turn)
        missing = len(self.turns) - len(kept)
        note = ""
        if missing:
            which = "the oldest turn" if missing == 1 else f"the {missing} oldest turns"
            note = f"{self.name}: {which} not sent, to fit into {room:,.0f} tokens"
        said = [m for t in kept for m in (t.question, Message("assistant", t.answer))]
        return (*said, question), note

    def add(
        self,
        question: Message,
        reply: Reply,
        system: str | None = None,
        private: bool | None = None,
    ) -> None:
        """Remember a turn that was answered, its system prompt if it had one, and its privacy."""
        self.private = self.private or bool(private)
        self.system = self.system if system is None else system or None
        tokens = reply.usage.total_tokens
        self.turns.append(
            Turn(question, str(reply), reply.provider, reply.model, tokens, time.time())
        )

    def without(self, answer: str) -> Chat:
        """A copy without its last turn, if that has this answer."""
        repeats = bool(self.turns) and self.turns[-1].answer == answer
        return replace(self, turns=self.turns[:-1] if repeats else [*self.turns])

    def transcript(self) -> str:
        """The conversation as Markdown: questions as quotes, answers followed by their model."""
        parts = [f"*{self.system}*"] if self.system else []
        for turn in self.turns:
            images = [f"[{image}]" for image in turn.question.images]
            lines = [*turn.question.content.strip("\n").split("\n"), *images]
            parts.append("\n".join(f"> {line}".rstrip() for line in lines))
            parts.append(turn.answer.strip("\n"))
            parts.append(f"*{_model(turn)} · {turn.tokens:,} tokens · {_clock(turn.at)}*")
        return "\n\n".join(parts)

    def to_json(self) -> str:
        """The conversation as JSON, with its images."""
        turns = [
            {
                "question": turn.question.content,
                "images": [
                    base64.b64encode(image.data).decode("ascii") for image in turn.question.images
                ],
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

    @classmethod
    def from_json(cls, text: str) -> Chat:
        """The conversation that `to_json` wrote.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: the text is something else.
        """
        whole = json.loads(text)
        turns = [
            Turn(
                Message(
                    "user",
                    _text(entry["question"]),
                    tuple(read_image(base64.b64decode(data)) for data in entry["images"]),
                ),
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
        """The conversation of that name, or a new one, which is kept once it has a turn.

        Raises:
            InvalidRequest: the name has other characters than letters, digits, `.`, `_` and `-`.
        """
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"--chat {name!r}: letters, digits, and . _ - make a name")
        return self.get(name) or Chat(name)

    def known(self, name: str) -> Chat:
        """The conversation of that name.

        Raises:
            InvalidRequest: there is none.
        """
        if name not in self:
            raise InvalidRequest(
                f"%llm_chat: unknown conversation {name!r}{did_you_mean(name, self)}"
            )
        return self[name]

    def run(self, text: str) -> dict[str, str] | str:
        """Run a line of `%llm_chat`; returns a bundle or a sentence to show.

        Raises:
            InvalidRequest: the line cannot be understood, or a file cannot be used.
        """
        try:
            verb, *words = shlex.split(text) or ["list"]
        except ValueError as error:
            raise InvalidRequest(f"%llm_chat: {error}") from None
        if verb not in _VERBS and verb in self and not words:
            verb, words = "show", [verb]
        usage = {
            "list": (0, 0, ""), "show": (1, 1, "NAME"), "export": (2, 2, "NAME FILE"),
            "load": (1, 2, "FILE [NAME]"), "fork": (2, 2, "NAME NEW"), "undo": (1, 1, "NAME"),
            "clear": (1, 1, "NAME"),
        }.get(verb)  # fmt: skip
        if usage is None:
            hint = did_you_mean(verb, [*_VERBS, *self])
            raise InvalidRequest(
                f"%llm_chat: {verb!r} is neither a conversation nor one of "
                f"{', '.join(_VERBS)}{hint}"
            )
        least, most, form = usage
        if not least <= len(words) <= most:
            raise InvalidRequest(f"usage: %llm_chat {verb} {form}".rstrip())
        done: dict[str, str] | str = getattr(self, f"_{verb}")(*words)
        return done

    def frame(self) -> pd.DataFrame:
        """A row per conversation.

        Columns: `chat, turns, tokens, provider, model, last, system`; `tokens` is the sum over all
        turns, `provider` and `model` answered last, `last` is when (aware, UTC).
        """
        from .frames import typed_frame

        rows = [
            (
                chat.name, len(chat.turns), sum(turn.tokens for turn in chat.turns),
                chat.turns[-1].provider, chat.turns[-1].model, utc(chat.turns[-1].at),
                chat.system,
            )
            for chat in self.values()
        ]  # fmt: skip
        return typed_frame(_TYPES, rows)

    def _list(self) -> dict[str, str] | str:
        if not self:
            return "no conversation yet; %%llm --chat NAME starts one"
        rows = []
        for chat in self.values():
            last = chat.turns[-1]
            rows.append(
                (
                    Cell(chat.name),
                    Cell(f"{len(chat.turns)}", right=True),
                    Cell(f"{sum(turn.tokens for turn in chat.turns):,}", right=True),
                    Cell(_model(last)),
                    Cell(_clock(last.at)),
                    Cell(one_line(last.question.content, 48)),
                )
            )
        return table_bundle(("chat", "turns", "tokens", "answered by", "at", "last asked"), rows)

    def _show(self, name: str) -> dict[str, str]:
        transcript = self.known(name).transcript()
        clean = without_controls(transcript)
        return {"text/plain": clean, "text/markdown": harmless_markdown(clean)}

    def _export(self, name: str, file: str) -> str:
        chat, path = self.known(name), expanded(file)
        if path.suffix not in (".md", ".json"):
            raise InvalidRequest("%llm_chat export: the file's name ends in .md or .json")
        text = chat.transcript() if path.suffix == ".md" else chat.to_json()
        try:
            path.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise InvalidRequest(f"%llm_chat export: {path}: {error.strerror}") from None
        return f"{name} ({_turns(chat)}) is in {path}"

    def _load(self, file: str, name: str | None = None) -> str:
        path = expanded(file)
        try:
            chat = Chat.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidRequest(f"%llm_chat load: {path}: {error.strerror}") from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise InvalidRequest(
                f"%llm_chat load: {path} is not a .json file that %llm_chat export wrote"
            ) from None
        chat.name = self.named(name or chat.name).name
        self._refuse_known(chat.name, "load", f" {file} NAME gives it another")
        self[chat.name] = chat
        return f"{chat.name} has {_turns(chat)}; %%llm --chat {chat.name} continues"

    def _fork(self, name: str, new: str) -> str:
        chat = self.known(name)
        self._refuse_known(self.named(new).name, "fork")
        self[new] = replace(chat, name=new, turns=list(chat.turns))
        return f"{new} has the {_turns(chat)} of {name}; both continue separately"

    def _undo(self, name: str) -> str:
        chat = self.known(name)
        gone = chat.turns.pop()
        if not chat.turns:
            del self[name]
        left = _turns(chat) if chat.turns else "no turn"
        return f"removed: {one_line(gone.question.content, 60)!r}; {name} has {left} left"

    def _clear(self, name: str) -> str:
        chat = self.known(name)
        del self[name]
        return f"{name} ({_turns(chat)}) is removed"

    def _refuse_known(self, name: str, verb: str, hint: str = "") -> None:
        if name in self:
            raise InvalidRequest(
                f"%llm_chat {verb}: a conversation {name!r} already exists"
                + (f"; %llm_chat {verb}{hint}" if hint else "")
            )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text is expected")
    return value


def _turns(chat: Chat) -> str:
    return f"{len(chat.turns)} turn{'' if len(chat.turns) == 1 else 's'}"


def _model(turn: Turn) -> str:
    return f"{turn.provider} · {turn.model.rpartition('/')[2]}"


def _clock(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment).astimezone():%d %b %H:%M}"
