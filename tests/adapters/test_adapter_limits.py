"""Headers, durations and limit messages, read without HTTP."""

from __future__ import annotations

import math
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arche_magic.llm_providers.adapters.limits import (
    header_observations,
    parse_duration,
    read_sentence,
    retry_delay,
    served_at,
)
from arche_magic.llm_providers.types import PERIOD_SECONDS, Observation, Period

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        ("7.66", 7.66),
        ("7.66s", 7.66),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723),
        ("26ms", 0.026),
        ("11m0.528s", 660.528),
        ("11m0.528s.", 660.528),
        ("10.811999999s", 10.811999999),
        ("44m38.4s", 2678.4),
        ("250µs", 250e-6),
        ("250us", 250e-6),
        ("80ns", 80e-9),
        ("0s", 0),
        (" 20s ", 20),
    ],
)
def test_durations_as_providers_write_them(text: str, seconds: float) -> None:
    """Seconds and Go durations down to nanoseconds, with or without a full stop."""
    assert parse_duration(text) == pytest.approx(seconds)


def test_dates_and_epoch_times_count_from_now() -> None:
    """HTTP dates and epoch times become delays from `now`. Past times are ignored."""
    assert parse_duration(formatdate(NOW + 90, usegmt=True), NOW) == 90
    assert parse_duration(formatdate(NOW - 90, usegmt=True), NOW) == 0
    assert parse_duration(str(int(NOW) + 5), NOW) == 5
    assert parse_duration(str(int(NOW + 5) * 1000), NOW) == 5
    assert parse_duration(formatdate(NOW + 90, usegmt=True)) is None


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone cannot be changed")
def test_dates_are_in_utc_wherever_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all three forms of RFC 9110, one of which names no zone."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        for form in (
            "%a, %d %b %Y %H:%M:%S GMT",
            "%A, %d-%b-%y %H:%M:%S GMT",
            "%a %b %d %H:%M:%S %Y",
        ):
            assert parse_duration(time.strftime(form, time.gmtime(NOW + 90)), NOW) == 90
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text", ["", ".", "s", "-5", "-5s", "nan", "inf", "1e400", "soon", "5 minutes", "٣", "9" * 5000]
)
def test_an_invalid_delay_gives_none(text: str) -> None:
    """Negative, absurd and unreadable delays are ignored."""
    assert parse_duration(text, NOW) is None


@given(st.text(max_size=40) | st.from_regex(r"[0-9hmsµ.]{1,30}", fullmatch=True))
def test_any_text_gives_a_sensible_delay_or_none(text: str) -> None:
    """No text raises, or gives a negative, infinite or years-long delay."""
    seconds = parse_duration(text, NOW)
    assert seconds is None or (math.isfinite(seconds) and 0 <= seconds <= 62 * 86_400)


@given(
    hours=st.integers(0, 1000),
    minutes=st.integers(0, 59),
    milliseconds=st.integers(0, 59_999),
)
def test_go_durations_are_read_back(hours: int, minutes: int, milliseconds: int) -> None:
    """Any duration in Go's format is read back correctly."""
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "")
    text += f"{milliseconds / 1000:g}s"
    expected = hours * 3600 + minutes * 60 + float(f"{milliseconds / 1000:g}")
    assert parse_duration(text) == pytest.approx(expected)


def test_the_more_precise_retry_header_wins() -> None:
    """`retry-after-ms` comes before `retry-after`. Dates use the server's clock."""
    assert retry_delay({"retry-after": "3", "retry-after-ms": "2300"}, NOW) == 2.3
    assert retry_delay({"retry-after": "3", "retry-after-ms": "soon"}, NOW) == 3
    ahead = {"retry-after": formatdate(NOW + 500, usegmt=True), "date": formatdate(NOW + 490)}
    assert retry_delay(ahead, NOW) == 10
    assert retry_delay({}, NOW) is None


def test_times_are_read_by_the_servers_clock() -> None:
    """If the server sends no date, our clock is used."""
    assert served_at({"date": formatdate(NOW - 300, usegmt=True)}, NOW) == NOW - 300
    assert served_at({"date": "noon"}, NOW) == NOW


GROQ: dict[str, Period] = {"requests": "day", "tokens": "minute"}


def test_groq_headers_count_requests_per_day_and_tokens_per_minute() -> None:
    """The headers are those that Groq was recorded to send."""
    headers = {
        "x-ratelimit-limit-requests": "14400",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-requests": "14398",
        "x-ratelimit-remaining-tokens": "5581",
        "x-ratelimit-reset-requests": "10.811999999s",
        "x-ratelimit-reset-tokens": "4.186s",
        "x-groq-region": "bom",
    }
    assert header_observations(headers, GROQ) == (
        Observation("requests_per_day", 14400, 14398, 10.811999999, "header"),
        Observation("tokens_per_minute", 6000, 5581, 4.186, "header"),
    )


def openai_headers(
    limit: str, remaining: str, reset: str, what: str = "requests"
) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": limit,
        f"x-ratelimit-remaining-{what}": remaining,
        f"x-ratelimit-reset-{what}": reset,
    }


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "name"),
    [
        ("10000", "9999", "6ms", "requests_per_minute"),
        ("500", "498", "240ms", "requests_per_minute"),
        ("500", "498", "180ms", "requests_per_minute"),
        ("50000000", "49999999", "0s", "requests_per_minute"),
        ("200", "199", "7m12s", "requests_per_day"),
        ("200", "196", "28m48s", "requests_per_day"),
        ("50", "0", "24h0m0s", "requests_per_day"),
    ],
)
def test_the_window_of_openai_requests_is_derived(
    limit: str, remaining: str, reset: str, name: str
) -> None:
    """OpenAI's header counts per minute or per day. The reset time shows which."""
    (seen,) = header_observations(openai_headers(limit, remaining, reset))
    assert seen.name == name
    assert seen.amount == float(limit)
    assert seen.remaining == float(remaining)


def test_an_ambiguous_request_window_is_ignored() -> None:
    """Unused limits do not show their window. Tokens default to a minute."""
    assert header_observations(openai_headers("500", "500", "0s")) == ()
    (tokens,) = header_observations(openai_headers("500", "500", "0s", "tokens"))
    assert tokens.name == "tokens_per_minute"
    (tokens,) = header_observations(openai_headers("86400", "86300", "1m40s", "tokens"))
    assert tokens.name == "tokens_per_day"


@given(
    limit=st.integers(1, 10**8),
    share=st.floats(0, 1),
    period=st.sampled_from(["minute", "day"]),
)
def test_a_bucket_shows_its_own_window(limit: int, share: float, period: Period) -> None:
    """The period inferred from any used bucket is correct."""
    used = max(1, min(limit, round(limit * share)))
    reset = used / limit * PERIOD_SECONDS[period]
    if reset < 0.002:
        return
    headers = openai_headers(str(limit), str(limit - used), f"{reset:.3f}s")
    (seen,) = header_observations(headers)
    assert seen.name == f"requests_per_{period}"


def test_mistral_headers_name_their_period() -> None:
    """Mistral's header names contain the period. Unknown periods are ignored."""
    headers = {
        "x-ratelimit-limit-tokens-minute": "500000",
        "x-ratelimit-remaining-tokens-minute": "499976",
        "x-ratelimit-limit-tokens-month": "1000000000",
        "x-ratelimit-remaining-tokens-month": "999974925",
        "x-ratelimit-limit-req-60-second": "60",
        "x-ratelimit-limit-req-10-second": "10",
        "x-ratelimit-tokens-query-cost": "24",
        "x-ratelimit-limit-tokens-fortnight": "7",
    }
    assert header_observations(headers) == (
        Observation("tokens_per_minute", 500_000, 499_976, None, "header"),
        Observation("tokens_per_month", 1_000_000_000, 999_974_925, None, "header"),
        Observation("requests_per_minute", 60, None, None, "header"),
    )


def test_mistrals_older_headers_count_tokens_by_their_period() -> None:
    """Recorded until May 2025. The reset is that of the minute."""
    headers = {
        "ratelimitbysize-limit": "500000",
        "ratelimitbysize-remaining": "499960",
        "ratelimitbysize-reset": "16",
        "ratelimitbysize-query-cost": "40",
        "x-ratelimitbysize-limit-minute": "500000",
        "x-ratelimitbysize-remaining-minute": "499960",
        "x-ratelimitbysize-limit-month": "1000000000",
        "x-ratelimitbysize-remaining-month": "999999960",
    }
    assert header_observations(headers) == (
        Observation("tokens_per_minute", 500_000, 499_960, 16, "header"),
        Observation("tokens_per_month", 1_000_000_000, 999_999_960, None, "header"),
    )


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("x-ratelimit-limit-req-minute", "requests_per_minute"),
        ("x-ratelimit-limit-req-60-second", "requests_per_minute"),
        ("x-ratelimit-limit-req-second", "requests_per_second"),
        ("x-ratelimit-limit-req-1-second", "requests_per_second"),
        ("x-ratelimit-limit-requests-day", "requests_per_day"),
        ("x-ratelimit-limit-tokens-minute", "tokens_per_minute"),
        ("X-RateLimit-Limit-Tokens-Month", "tokens_per_month"),
        ("x-ratelimit-limit-req-10-second", None),
        ("x-ratelimit-limit-input-images", None),
        ("x-ratelimit-limit-tokens_usage_based", None),
        ("x-ratelimit-tokens-query-cost", None),
        ("ratelimitbysize-limit", None),
    ],
)
def test_each_header_is_read_with_its_unit_and_window(name: str, limit: str | None) -> None:
    """Unknown windows, and units other than requests and tokens, are ignored."""
    assert [seen.name for seen in header_observations({name: "60"})] == [limit] * bool(limit)


@pytest.mark.parametrize(
    ("text", "name", "figures"),
    [
        (
            ("Rate limit reached for model `m` in organization `org_1` service tier `on_demand` on"
            " tokens per minute (TPM): Limit 6000, Used 5447, Requested 783. Please try again in"
            " 2.3s. Need more tokens? Upgrade"),
            "tokens_per_minute", (6000, 5447, 783, 2.3),
        ),
        (
            ("… on tokens per day (TPD): Limit 200000, Used 197494, Requested 4035."
            " Please try again in 11m0.528s. …"),
            "tokens_per_day", (200_000, 197_494, 4035, 660.528),
        ),
        (
            ("… on requests per day (RPD): Limit 50, Used 50, Requested 1."
            " Please try again in 28m48s."),
            "requests_per_day", (50, 50, 1, 1728),
        ),
        (
            "… on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s.",
            "requests_per_minute", (3, 3, 1, 20),
        ),
        (
            ("… on input tokens per minute (ITPM): Limit 7000, Used 6900, Requested 200."
            " Please try again in 857.142ms."),
            "input_tokens_per_minute", (7000, 6900, 200, 0.857142),
        ),
        (
            "… on output tokens per minute (OTPM): Limit 1000, Used 990, Requested 30.",
            "output_tokens_per_minute", (1000, 990, 30, None),
        ),
        (
            ("Request too large for gpt-5-nano on tokens per min (TPM): Limit 2000000,"
            " Requested 2500013. The input or output tokens must be reduced"),
            "tokens_per_minute", (2_000_000, None, 2_500_013, None),
        ),
        (
            "… on audio seconds per hour (ASH): Limit 7200, Used 7200, Requested 10.",
            None, (7200, 7200, 10, None),
        ),
        (
            ("… on tokens per min (TPM): Limit 5000000, Used 5000000, Requested 100667."
            " Please try again in 14h29m11.04s."),
            "tokens_per_month", (5_000_000, 5_000_000, 100_667, 52_151.04),
        ),
        (
            ("… on requests per minute (RPM): Limit 40, Used 40, Requested 1."
            " Please try again in 59s."),
            "requests_per_minute", (40, 40, 1, 59),
        ),
        (
            ("… on requests per minute (RPM): Limit 40, Used 40, Requested 1."
            " Please try again in 60.4s."),
            "requests_per_minute", (40, 40, 1, 60.4),
        ),
    ],
)  # fmt: skip
def test_recorded_limit_sentences_are_read(
    text: str, name: str | None, figures: tuple[float | None, ...]
) -> None:
    """They cover every dimension of Groq and OpenAI, and a wait longer than its label."""
    sentence = read_sentence(text)
    assert sentence is not None
    assert sentence.name == name
    read = (sentence.limit, sentence.used, sentence.requested, sentence.wait)
    assert read == tuple(figure if figure is None else pytest.approx(figure) for figure in figures)


@pytest.mark.parametrize("value", ["-1", "many", "", "1e9", "nan", "9" * 40])
def test_absurd_figures_are_ignored(value: str) -> None:
    """Nothing is learned from figures that are not plain counts."""
    headers = {"x-ratelimit-limit-tokens": value, "x-ratelimit-remaining-tokens": value}
    assert header_observations(headers) == ()
    assert header_observations(openai_headers("10", "11", "1s", "tokens")) == ()


@given(st.dictionaries(st.text(max_size=40), st.text(max_size=20), max_size=4))
def test_any_headers_can_be_read(headers: dict[str, str]) -> None:
    """No headers make the reader fail."""
    header_observations(headers)
    retry_delay(headers, NOW)


@given(st.text(max_size=200))
def test_any_message_can_be_read(text: str) -> None:
    """No message and no figure in it make the reader fail."""
    read_sentence(text)
    read_sentence(f"on tokens per day (TPD): Limit {text}")
    read_sentence(
        f"on tokens per day (TPD): Limit 5, Used 5, Requested 1. Please try again in {text}"
    )


@given(
    limit=st.integers(100, 10**7),
    used_share=st.floats(0, 1),
    requested_share=st.floats(0.01, 1),
    period=st.sampled_from(list(PERIOD_SECONDS)),
    label=st.sampled_from(["min", "minute", "day"]),
)
def test_a_longer_wait_overrides_a_wrong_label(
    limit: int, used_share: float, requested_share: float, period: Period, label: str
) -> None:
    """A wait longer than the labelled period shows the real one. Other waits do not."""
    used = round(limit * used_share)
    requested = max(1, round(limit * requested_share))
    wait = (used + requested - limit) / limit * PERIOD_SECONDS[period]
    if wait < 0.05:
        return
    text = f"on tokens per {label} (T): Limit {limit}, Used {used}, Requested {requested}."
    sentence = read_sentence(f"{text} Please try again in {wait:.3f}s.")
    assert sentence is not None
    labelled: Period = "day" if label == "day" else "minute"
    too_long = wait > 1.1 * PERIOD_SECONDS[labelled] + 1
    assert sentence.name == f"tokens_per_{period if too_long else labelled}"
    assert sentence.inferred is too_long
    assert sentence.wait == pytest.approx(wait, abs=0.001)


def test_limits_of_other_units_are_ignored() -> None:
    """Limits of audio seconds and images are ignored."""
    sentence = read_sentence("on images per min (IPM): Limit 5, Used 5, Requested 1.")
    assert sentence is not None
    assert sentence.name is None
    assert sentence.observations == ()
    assert read_sentence("Rate limit exceeded") is None


def test_headers_that_name_their_period_need_no_rule() -> None:
    """The headers are those of Cerebras (2026-07). Resets are seconds with many decimals."""
    headers = {
        "x-ratelimit-limit-requests-day": "14400",
        "x-ratelimit-remaining-requests-day": "14399",
        "x-ratelimit-reset-requests-day": "33011.382867097855",
        "x-ratelimit-limit-tokens-minute": "60000",
        "x-ratelimit-remaining-tokens-minute": "59000",
        "x-ratelimit-reset-tokens-minute": "11.382867097854614",
    }
    seen = {o.name: o for o in header_observations(headers)}
    assert set(seen) == {"requests_per_day", "tokens_per_minute"}
    assert seen["requests_per_day"].remaining == 14_399
    assert seen["tokens_per_minute"].resets_in == pytest.approx(11.383, abs=0.001)
