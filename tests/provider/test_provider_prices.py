"""The cost of a reply, in USD."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price

from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.prices import cost_usd
from arche_magic.llm_providers.types import Key, Route, Usage
from arche_magic.notebook.receipt import receipt_line

if TYPE_CHECKING:
    from provider_parts import Start


def test_a_paid_reply_has_its_cost(start: Start) -> None:
    """It follows from the price table and the provider's count of tokens.

    The attempts have it too.
    """
    start()
    reply = get_llm_provider("openai").generate("Hello")
    counted = PricedUsage(
        input_tokens=reply.usage.input_tokens, output_tokens=reply.usage.output_tokens
    )
    price = calc_price(counted, reply.model, provider_id="openai").total_price
    assert reply.cost == pytest.approx(float(price))
    assert reply.cost > 0
    (attempt,) = reply.attempts
    assert attempt.cost_usd == reply.cost


def test_failed_attempts_are_part_of_the_cost_of_a_reply(start: Start) -> None:
    """One more question because of the schema, and a free route that answers in the end."""
    texts = iter(["no JSON", '{"a": 1}'])
    start(keys={"openai": 1}, reply=lambda *_: next(texts))
    reply = get_llm_provider().generate("Hello", schema="a int")
    first, second = reply.attempts
    assert reply.cost == pytest.approx(first.cost_usd + second.cost_usd)
    assert min(first.cost_usd, second.cost_usd) > 0
    assert "paid · $" in receipt_line(reply)
    free = reply.changed(provider="groq", decisions=(), cost=first.cost_usd)
    assert f"paid · ${first.cost_usd:.6f}" in receipt_line(free)


def test_a_free_reply_costs_nothing(start: Start) -> None:
    """Its cost is 0, not an unknown amount."""
    start()
    assert get_llm_provider("mistral").generate("Hello").cost == 0.0


def test_the_cost_is_none_if_the_price_is_unknown() -> None:
    """None is not zero: budgets and sums must not treat it as free."""
    key = Key.of("openai", "openai_key_1", "sk-made-up-for-a-test")
    assert cost_usd(Route("openai", key, "a-model-of-next-year", True), Usage(10, 20)) is None


def test_prices_are_not_loaded_for_free_routes() -> None:
    """The table takes a third of a second to load, which free routes do not need."""
    script = (
        "import sys\n"
        "from arche_magic.llm_providers.prices import cost_usd\n"
        "from arche_magic.llm_providers.types import Key, Route, Usage\n"
        "key = Key.of('groq', 'groq_key_1', 'gsk_made_up_for_a_test')\n"
        "assert cost_usd(Route('groq', key, 'openai/gpt-oss-120b'), Usage(10, 20)) == 0.0\n"
        "print('genai_prices' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
