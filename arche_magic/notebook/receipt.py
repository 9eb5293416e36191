"""The receipt of a reply, its function calls, and their metadata in the saved notebook."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import ToolCall, ToolRun
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import ConfigurationError
from arche_magic.llm_providers.prices import usd_per_million
from arche_magic.llm_providers.reply import (
    Attempt,
    Reply,
    outcome_in_words,
    total_cost,
    without_defaults,
)
from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.text.wording import plural
from arche_magic.llm_providers.types import Usage, name_in_words

from .styles import QUIET, RED, details, escape, one_line, quiet_line
from .words import paid_text

if TYPE_CHECKING:
    from arche_magic.llm_providers.attempt_log import Ended

_HOW_TO_PREVENT = (
    "Paid, because no free route could answer. --patience SECONDS waits longer for one; "
    "per_day = 0 under [budget] in arche_magic.toml allows free routes only"
)
# Whether this session has shown the hint.
_hint_is_shown = False
# Characters of a reply whose source is repeated in its receipt.
_LONGEST_SOURCE = 20_000
# Otherwise, Jupyter breaks the lines of a `pre` within words.
_WRAPPED = "white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere"
# An untrusted notebook loses `user-select`; the block can then be selected like any text.
_SELECTABLE = (
    f"user-select:all;-webkit-user-select:all;{_WRAPPED};"
    "max-height:240px;overflow:auto;margin:2px 0;padding:4px 6px;"
    "border:1px solid rgba(128,128,128,.35)"
)

# Characters of a call's line, and of its arguments and result when it is unfolded.
_LONGEST_CALL, _LONGEST_RESULT, _LONGEST_PART = 120, 80, 2_000
_PART = f"{_WRAPPED};margin:2px 0 2px 14px;font-size:95%"


def receipt_line(reply: Reply) -> str:
    """`groq · key 2 · gpt-oss-120b · 312 tokens · 0.8 s · 23 of 30 requests left this minute`.

    The receipt of a paid reply shows its cost, `paid · $0.0031`. The receipt of a kept reply is
    `from memory, 2026-11-23 · groq · key 2 · gpt-oss-120b · 312 tokens then, none now`.
    """
    route = str(reply.route)
    tokens = f"{reply.usage.total_tokens:,} tokens"
    if reply.from_memory:
        day = f"{reply.from_memory.astimezone():%Y-%m-%d}"
        parts = [f"from memory, {day}", route, f"{tokens} then, none now"]
    else:
        parts = [route, tokens, _time(reply)]
        if reply.tool_runs:
            rounds = reply.tool_runs[-1].round + 1
            parts.append(f"{rounds} rounds, {plural(len(reply.tool_runs), 'call')}")
        if _was_paid(reply) or reply.cost:
            parts.append(paid_text(reply.cost) if reply.cost != 0 else "paid")
    parts += [
        "private" if reply.decisions and reply.decisions[-1].private else "",
        "cut at max_tokens" if reply.finish_reason == "length" else "",
        reply.standing,
        _started_again(reply),
    ]
    return " · ".join(filter(None, parts))


def _time(reply: Reply) -> str:
    """`0.8 s`, or `0.8 s, after 26 s of waiting`."""
    waited = sum(attempt.waited_s for attempt in reply.attempts[-1:])
    asked = reply.seconds - waited if waited >= 1 else reply.seconds
    seconds = f"{asked:.{1 if asked >= 0.1 else 2}f} s"
    return f"{seconds}, after {waited:.0f} s of waiting" if waited >= 1 else seconds


def _started_again(reply: Reply) -> str:
    """`started again after groq · key 1 broke off`, if some text had arrived before that."""
    for attempt in reversed(reply.attempts):
        if attempt.outcome == "failed" and attempt.first_token_s is not None:
            is_misfit = "does not fit" in (attempt.error or "")
            how = "replied in another format" if is_misfit else "broke off"
            return f"started again after {name_in_words(attempt.key)} {how}"
    return ""


def receipt_bundle(reply: Reply, *more: str) -> dict[str, str]:
    """The receipt: a grey line that unfolds to the price, the routes skipped, and the source.

    The source is the Markdown of the reply, which cannot be copied from the rendered reply. Below
    the first paid reply of a session, a line says how to prevent paid replies.
    """
    paid = _was_paid(reply) and not reply.from_memory
    price = f"price: {_rate(reply.provider, reply.model)}" if paid else ""
    skipped = [attempt for attempt in reply.attempts if attempt.outcome != "served"]
    count = routes_skipped(reply)
    line = " · ".join([receipt_line(reply), *more])
    inside = f'<div style="margin:4px 0 0 14px">{escape(price)}</div>' if price else ""
    inside += (_attempts_lines(reply.attempts) if skipped else "") + _source(str(reply))
    shown = quiet_line(line)
    if inside:
        bold = f' · <b style="white-space:nowrap">{count}</b>' if count else ""
        shown["text/html"] = details(escape(line) + bold, inside, style=QUIET)
        below = [price, *(without_controls(str(attempt)) for attempt in skipped)]
        head = " · ".join(filter(None, (line, count)))
        shown["text/plain"] = "\n  ".join([head, *filter(None, below)])
    if paid and (hint := _paid_hint(reply)):
        shown["text/plain"] += f"\n{hint}"
        shown["text/html"] += f'<div style="{QUIET}">{escape(hint)}</div>'
    return shown


def _was_paid(reply: Reply) -> bool:
    considered = (entry for decision in reply.decisions for entry in decision.considered)
    return any(entry.paid for entry in considered if entry.name == reply.route)


def _rate(provider: str, model: str) -> str:
    """`$0.75 per million tokens in, $4.50 out`, or that the price is not known."""
    try:
        priced = get_configuration().providers.get(provider)
    except ConfigurationError:
        # The settings were changed before the reply arrived.
        priced = None
    rate = (priced and priced.prices.get(model)) or usd_per_million(provider, model)
    if rate is None:
        return "not known"
    into, out = (f"${usd:.{2 if usd == round(usd, 2) else 4}f}" for usd in rate)
    return f"{into} per million tokens in, {out} out"


def _paid_hint(reply: Reply) -> str:
    """How to prevent paid replies; "" except for the first one that could have been free."""
    global _hint_is_shown
    considered = [entry for decision in reply.decisions for entry in decision.considered]
    if _hint_is_shown or all(entry.paid for entry in considered):
        return ""
    _hint_is_shown = True
    return _HOW_TO_PREVENT


def forget_hint() -> None:
    """Forget that the hint was shown."""
    global _hint_is_shown
    _hint_is_shown = False


def routes_skipped(reply: Reply) -> str:
    """`2 routes skipped`, each once, for those that were closed or failed; "" if there are none."""
    served = {attempt.route for attempt in reply.attempts if attempt.outcome == "served"}
    skipped = {attempt.route for attempt in reply.attempts} - served
    return f"{plural(len(skipped), 'route')} skipped" if skipped else ""


def _source(text: str) -> str:
    """The reply as it was written, in a block that a click selects; "" if it is too long."""
    if not text.strip() or len(text) > _LONGEST_SOURCE:
        return ""
    return (
        '<div style="margin:4px 0 4px 14px">source (click to select all):'
        f'<pre tabindex="0" style="{_SELECTABLE}">{escape(text)}</pre></div>'
    )


def reply_metadata(reply: Reply) -> dict[str, Any]:
    """Metadata of a reply for the saved notebook, from which the attempts can be read again."""
    return {
        "provider": reply.provider,
        "key": reply.key,
        "model": reply.model,
        "finish_reason": reply.finish_reason,
        **({"from_memory": reply.from_memory.isoformat()} if reply.from_memory else {}),
        **_course(reply),
    }


def request_metadata(ended: Ended | None) -> dict[str, Any]:
    """Metadata of a request without a reply."""
    return {"arche_magic": _course(ended)} if ended else {}


def _course(ended: Reply | Ended) -> dict[str, Any]:
    return {
        "attempts": attempt_lines(ended.attempts),
        "decisions": [_json_line(decision.to_dict()) for decision in ended.decisions],
    }


def attempt_lines(attempts: Sequence[Attempt]) -> list[str]:
    """Each attempt as a line of JSON: a saved notebook spreads a mapping over many lines.

    `said`, the server's words, is left out: `error` has them already.
    """
    return [_json_line(without_defaults(replace(attempt, said=""))) for attempt in attempts]


def _json_line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def _attempts_lines(attempts: Sequence[Attempt]) -> str:
    """A line per attempt, in columns; they stay separate lines if styles are removed."""
    cell = "display:table-cell;padding:1px 12px 1px 0"
    lines = "".join(
        f'<div style="display:table-row"><span style="{cell}">'
        f"{escape(str(a.route))}</span> "
        f'<span style="{cell}">{outcome_in_words(a.outcome)}</span> '
        f'<span style="{cell}">{escape(a.why or f"{a.seconds:.2f} s")}</span>'
        "</div>"
        for a in attempts
    )
    return f'<div style="margin:4px 0 4px 14px">{lines}</div>'


def interrupted_reply(text: str, ended: Ended | None) -> Reply:
    """The text so far of an interrupted reply, as a reply with the attributes of its request."""
    attempts = ended.attempts if ended else ()
    last = next((a for a in reversed(attempts) if a.outcome == "interrupted"), None)
    # Those of earlier rounds, if functions were called, and the interrupted one.
    answered = [a for a in attempts if a.outcome in ("served", "interrupted")]
    if ended is None or last is None:
        return Reply(text, finish_reason="interrupted")
    return Reply(
        text,
        provider=last.provider,
        key=last.key,
        model=last.model,
        usage=Usage(sum(a.input_tokens for a in answered), sum(a.output_tokens for a in answered)),
        attempts=attempts,
        seconds=last.waited_s + last.seconds,
        finish_reason="interrupted",
        cost=total_cost(attempts),
        decisions=ended.decisions,
    )


def call_line(call: ToolCall) -> str:
    """`lookup(city="Oslo", days=3)`."""
    try:
        arguments = json.loads(call.arguments or "{}")
        shown = ", ".join(
            f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items()
        )
    except (ValueError, AttributeError, RecursionError):
        shown = call.arguments
    return one_line(f"{call.name}({shown})", _LONGEST_CALL)


def run_bundle(run: ToolRun) -> dict[str, str]:
    """A call and its result: a grey line that unfolds to all of both."""
    line = call_line(run.call)
    result = one_line(run.result, _LONGEST_RESULT)
    error = "error: " if run.failed else ""
    mark = f'<b style="color:{RED}">error</b>: ' if run.failed else ""
    parts = [f"{run.call.name}({run.call.arguments})", run.result, f"{run.seconds:.2f} s"]
    inside = "".join(f'<pre style="{_PART}">{escape(_shortened(part))}</pre>' for part in parts)
    return {
        "text/plain": f"{line} → {error}{result}",
        "text/html": details(f"{_code(line)} → {mark}{_code(result)}", inside, style=QUIET),
    }


def _code(text: str) -> str:
    return f'<code style="{_WRAPPED}">{escape(text)}</code>'


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST_PART:
        return text
    return f"{text[:_LONGEST_PART]}\n[the first {_LONGEST_PART:,} of {len(text):,} characters]"
