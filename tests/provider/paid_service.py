"""A paid service on loopback, whose replies have the length and form that a test sets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from loopback import Handler, serving

from arche_magic.llm_providers.config import load_configuration, use_configuration

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "gpt-4.1-mini"
_LONGEST_WAIT_SECONDS = 10.0
# Far above any limit that could slow a test down.
PLENTY = {
    "x-ratelimit-limit-requests": "60000",
    "x-ratelimit-remaining-requests": "59999",
    "x-ratelimit-reset-requests": "1ms",
    "x-ratelimit-limit-tokens": "60000000",
    "x-ratelimit-remaining-tokens": "59999000",
    "x-ratelimit-reset-tokens": "1ms",
}


@dataclass(frozen=True)
class Answer:
    """The service's answer to one request; its cost is its tokens times the price in the test."""

    output_tokens: int = 3000
    input_tokens: int = 20
    text: str = "An answer."
    says_usage: bool = True
    status: int = 200


@dataclass
class PaidService:
    """Answers as OpenAI does, and counts the tokens it charges.

    Attributes:
        answer: returns the answer to the request with this number.
        seconds: duration of each answer.
        together: no answer is sent until this many requests have arrived, for at most 10 s.
        charged: tokens of all answered requests.
        most_at_once: the highest number of concurrent requests.
    """

    answer: Callable[[int], Answer] = lambda number: Answer()
    seconds: float = 0.05
    together: int = 1
    url: str = ""
    charged: list[int] = field(default_factory=list)
    most_at_once: int = 0
    _under_way: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def tokens(self) -> int:
        """All tokens it has charged."""
        return sum(self.charged)

    def take(self, body: dict[str, Any]) -> tuple[int, bytes]:
        with self._changed:
            number = len(self.charged)
            answer = self.answer(number)
            ok = answer.status == 200
            self.charged.append(ok * (answer.output_tokens + answer.input_tokens))
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
            self._changed.notify_all()
            are_together = self._changed.wait_for(
                lambda: self.most_at_once >= self.together, _LONGEST_WAIT_SECONDS
            )
            if not are_together:
                self.together = 1
        time.sleep(self.seconds)
        with self._changed:
            self._under_way -= 1
        if not ok:
            return answer.status, b'{"error": {"message": "no", "type": "server_error"}}'
        reply = {
            "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{
                "index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": answer.text},
            }],
            "usage": {
                "prompt_tokens": answer.input_tokens,
                "completion_tokens": answer.output_tokens,
                "total_tokens": answer.input_tokens + answer.output_tokens,
            },
        }  # fmt: skip
        if not answer.says_usage:
            del reply["usage"]
        return 200, json.dumps(reply).encode()


@contextmanager
def paid_service(**options: Any) -> Iterator[PaidService]:
    """A service that runs until the end of the block."""
    service = PaidService(**options)

    class Answers(Handler):
        def do_POST(self) -> None:
            self.answer(*service.take(json.loads(self.body())), PLENTY)

    with serving(Answers) as url:
        service.url = f"{url}/v1"
        yield service


def environment(service: PaidService) -> dict[str, str]:
    """The variables that name the service as OpenAI's address, with a key."""
    return {"OPENAI_API_KEY": "sk-of-a-paid-service-1234567890", "OPENAI_BASE_URL": service.url}


def use(
    service: PaidService, folder: Path, usd_per_million: float = 1000.0, **settings: Any
) -> None:
    """Use only this service from now on, at this price."""
    configuration = load_configuration(environment(service), folder)
    openai = configuration.providers["openai"]
    openai = replace(openai, prices={MODEL: (usd_per_million, usd_per_million)})
    providers = {**configuration.providers, "openai": openai}
    use_configuration(replace(configuration, providers=providers, **settings))
