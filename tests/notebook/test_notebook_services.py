"""Services added in a settings file, and the doctor, in a notebook."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from arche_magic.llm_providers.config.keys import PLACEHOLDER_KEY
from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from notebook_kernel import Kernel

MODEL = "gpt-4.1-mini"


@pytest.fixture
def server(kernel: Kernel) -> Iterator[Sandbox]:
    """A server on this machine without a key, in the settings of the kernel's folder."""
    path = kernel.folder / "arche_magic.toml"
    with Sandbox(keys={"openai": [PLACEHOLDER_KEY]}, limits={"openai": dict.fromkeys(
        ("requests_per_minute", "requests_per_day", "tokens_per_minute")
    )}) as sandbox:  # fmt: skip
        path.write_text(
            f'[providers.house]\nbase_url = "{sandbox.url}/openai/v1"\nmodels = ["{MODEL}"]\n'
            f'[providers.house.prices]\n"{MODEL}" = {{ input = 1, output = 2 }}\n'
        )
        kernel.run("import os; os.environ['ARCHE_QUOTA_STORE'] = 'memory://services'")
        yield sandbox
    path.unlink()


def test_a_prompt_can_name_the_service(kernel: Kernel, server: Sandbox) -> None:
    """It does so with `-p`. The receipt names the service, and no limit, because none is known."""
    cell = kernel.run("%llm -p house -o answer What is a bucket?")
    assert cell.status == "ok", cell.error
    assert kernel.value("answer.provider") == "house"
    assert kernel.value("answer.cost") > 0
    receipt = [text for text in cell.data("text/html") if "house · key 1" in text][-1]
    assert "left" not in receipt
    assert "· ·" not in receipt
    kernel.run("%config ArcheMagics.provider = 'house'")
    assert kernel.run("%llm -q Once more").status == "ok"
    kernel.run("%config ArcheMagics.provider = ''")


def test_tables_include_the_service(kernel: Kernel, server: Sandbox) -> None:
    """They are those of keys, models with the configured price, quota and stats."""
    kernel.run("%llm -q -p house hi")
    keys = kernel.run("frame = %llm_keys").data()[0]
    assert "no key needed" in keys
    assert kernel.value("frame['open'].tolist()") == [True]
    kernel.run("frame = %llm_models house")
    price = "frame[['input_usd_per_million', 'output_usd_per_million']].iloc[0].tolist()"
    assert kernel.value(price) == [1.0, 2.0]
    assert "house · key 1 · gpt-4.1-mini: no limit is known" in kernel.run("%llm_quota").data()[0]
    assert "house · key 1" in kernel.run("%llm_stats").data()[0]
    check = kernel.run("check = %llm_keys check house_key_1").data()[0]
    models = kernel.value("len(check.models[0])")
    assert f"works, {models} model{'' if models == 1 else 's'}" in check
    assert "house · key 1" in kernel.run("%llm --dry-run -p house hi").printed
    server.fail("openai", "unauthorized")
    assert kernel.run("%llm -q -p house hi").status == "error"
    assert re.search(
        r"gpt-4.1-mini: no limit is known · paid.* · closed: .*401",
        kernel.run("%llm_quota").data()[0],
    )
    assert kernel.run("%llm_why").status == "ok"


def test_the_budget_is_shown_below_the_quota(kernel: Kernel, server: Sandbox) -> None:
    """The table has the amount spent, and the receipt the amount left."""
    path = kernel.folder / "arche_magic.toml"
    path.write_text(f"{path.read_text()}[budget]\nper_day = 2\nper_month = 20\n")
    cell = kernel.run("%llm -p house hi")
    assert "of 2.00 USD left today" in cell.data("text/html")[-1]
    said = kernel.run("%llm_quota").data()[0].splitlines()[-1]
    assert said.startswith("Budget of paid routes: 2.00 of 2.00 USD left today, ")
    assert said.endswith("of 20.00 USD left this month (UTC)")


def test_the_name_of_the_service_completes(kernel: Kernel, server: Sandbox) -> None:
    """Its model completes too, after `-p`."""
    code = "%llm -p hou"
    request = kernel.client.complete(code, len(code), reply=True, timeout=20)
    assert "house" in request["content"]["matches"]


def test_the_doctor_shows_a_table_and_returns_a_frame(kernel: Kernel, server: Sandbox) -> None:
    """States are coloured words; styles are inline."""
    cell = kernel.run("frame = %llm_doctor --send")
    assert cell.status == "ok", cell.error
    assert kernel.value("list(frame.columns)") == ["state", "about", "found", "advice"]
    states = kernel.value("dict(zip(frame['about'], frame['state']))")
    assert states["house_key_1"] == states["house · key 1 · gpt-4.1-mini"] == "ok"
    text, html = cell.data()[0], cell.data("text/html")[0]
    assert "answered in" in text
    assert text.splitlines()[-1] == "nothing wrong"
    assert "<style" not in html
    assert ">ok</span>" in html
    assert html.count("<details") == html.count("<table") == 1
    assert ">advice<" not in html
    assert "takes no text" in kernel.run("%llm_doctor groq").message


def test_services_are_listed_with_their_state(kernel: Kernel, server: Sandbox) -> None:
    """As lines of at most 100 columns, as a table with links, and as a frame."""
    kernel.run("os.environ['ZAI_API_KEY'] = 'a-key-that-is-made-up'")
    cell = kernel.run("frame = %llm_services")
    kernel.run("del os.environ['ZAI_API_KEY']")
    assert cell.status == "ok", cell.error
    state = kernel.value("frame.set_index('service')['state'].to_dict()")
    assert state["house"] == "in use"
    assert state["zai"] == "off"
    assert {state["openrouter"], state["groq"]} == {"available"}
    free = "frame.set_index('service')['paid'].to_dict()"
    assert kernel.value(free)["cerebras"] is True
    assert kernel.value(free)["openrouter"] is False
    text, html = cell.data()[0], cell.data("text/html")[0]
    assert max(len(line) for line in text.splitlines() if "https://" not in line) <= 100
    heads = [line for line in text.splitlines() if not line.startswith(" ")]
    assert heads[:2] == ["in use", "a key was found, but the service is off"]
    assert "add the line [providers.zai] to arche_magic.toml" in " ".join(text.split())
    assert 'href="https://openrouter.ai/keys"' in html
    assert "2026-10-17" in html
    assert "<style" not in html
    for shown in (text, html):
        assert "a-key-that-is-made-up" not in shown
    assert "takes no text" in kernel.run("%llm_services groq").message


def test_a_service_without_a_key_that_is_on_is_not_in_use(kernel: Kernel, server: Sandbox) -> None:
    """It is listed as off, with the place that turns it on; the doctor has it once."""
    kernel.run("from arche_magic.llm_providers.config import Choices, use_choices")
    kernel.run("use_choices(Choices(off=frozenset({'house_key_1'})))")
    listed = " ".join(kernel.run("frame = %llm_services").data()[0].split())
    found = kernel.run("%llm_doctor").data()[0]
    kernel.run("use_choices(Choices())")
    assert kernel.value("frame.set_index('service')['state']['house']") == "off"
    assert "house_key_1 is set; to use it (costs money), turn it on in %llm_panel" in listed
    assert "is set, but" not in found
    assert "turn it on in %llm_panel" in found


def test_the_doctor_needs_no_key(kernel: Kernel) -> None:
    """Without keys, it says where to get one."""
    cell = kernel.run("%llm_doctor")
    assert cell.status == "ok", cell.error
    problem, advice, *_ = cell.data()[0].splitlines()
    assert problem.startswith("wrong  keys")
    assert "set GROQ_API_KEY" in advice
    shown, fine = cell.data("text/html")[0].split("<details")
    assert ">wrong</span>" in shown
    assert ">advice<" in shown
    assert "wrong" not in fine.partition("</details>")[0]


def test_costs_are_shown_for_every_paid_route(kernel: Kernel, sandboxed) -> None:
    """Receipt, comparison, quota, %llm_why and --dry-run mark paid routes and their cost."""
    sandboxed(keys={"groq": 1, "openai": 1}, reply=lambda *_: "word " * 400)
    paid = r"paid · \$0\.\d{4,6}"
    receipt = kernel.run("%llm -p openai -o dear hi").displays[1]["data"]
    price = f"paid · ${kernel.value('dear.cost'):.4f}"
    assert re.search(rf"openai · key 1 · .* tokens · [\d.]+ s · {paid}", receipt["text/plain"])
    for text in receipt.values():
        assert price in text
    assert "paid" not in kernel.run("%llm -p groq -o free hi").data()[1]
    for line in ("%llm_why dear", "%llm_quota"):
        for text in kernel.run(f"x = {line}").displays[0]["data"].values():
            assert price in text, line
    assert kernel.run("x = %llm_why dear").data()[0].endswith(f"({price}).")
    why = "x.set_index('provider').why.to_dict()"
    assert kernel.value(why)["openai"].endswith(f"; {price}")
    kernel.run("x = %llm_why free")
    assert kernel.value(why)["openai"] == "only groq was offered; paid"
    columns = kernel.run("%llm --compare groq,openai hi").data()[0].split("──")
    assert re.search(paid, columns[4])
    assert "paid" not in columns[2]
    ahead = kernel.run("%llm --dry-run -p openai hi").printed
    assert re.search(rf"tokens in, \d+ out · {paid}", ahead)
    head, *rows = kernel.run("%llm_stats").data()[0].splitlines()
    assert head.endswith("  cost")
    assert sorted(row.rpartition("  ")[2].startswith("$0.") for row in rows) == [False, True]
    (line,) = (line for line in kernel.run("%llm_quota").data()[0].splitlines() if "paid" in line)
    assert re.fullmatch(rf"  {paid} in this session", line)


def test_a_paid_fallback_says_once_how_to_prevent_it(kernel: Kernel, sandboxed) -> None:
    """The receipt of a paid reply has its price; the first fallback of a session has the hint.

    A reply from a paid provider that the user chose has none.
    """
    sandbox = sandboxed(keys={"groq": 1, "openai": 1})
    hint = r"Paid, because no free .* --patience .*; per_day = 0 under \[budget\] .* free routes"
    price = r"price: \$\d+\.\d\d(\d\d)? per million tokens in, \$\d+\.\d\d(\d\d)? out"
    asked = kernel.run("%llm -p openai hi").displays[1]["data"]
    for text in asked.values():
        assert re.search(price, text)
    assert not re.search(hint, asked["text/plain"])
    sandbox.fail("groq_key_1", "rate_limit_day", times=None)
    first, second = (kernel.run("%llm --patience 0 hi").displays[1]["data"] for _ in range(2))
    for text in first.values():
        assert re.search(hint, text)
    assert "1 route skipped" in first["text/plain"].splitlines()[0]
    for text in second.values():
        assert re.search(price, text)
        assert not re.search(hint, text)
    settings = kernel.folder / "arche_magic.toml"
    settings.write_text("[budget]\nper_day = 0\n")
    try:
        assert "openai" in kernel.run("%llm --patience 0 hi").message
    finally:
        settings.unlink()


def test_a_paid_reply_is_shown_if_the_settings_are_broken_meanwhile(
    kernel: Kernel, sandboxed
) -> None:
    """Somebody may edit the file while the request runs."""
    settings = kernel.folder / "arche_magic.toml"

    def reply(*_: object) -> str:
        settings.write_text("[budget")
        return "Done."

    sandboxed(keys={"openai": 1}, reply=reply)
    try:
        cell = kernel.run("%llm hi")
    finally:
        settings.unlink()
    assert cell.status == "ok", cell.error
    assert "paid · $" in cell.data()[1]


def test_an_unknown_price_is_not_shown_as_free(kernel: Kernel, server: Sandbox) -> None:
    """The route is still marked as paid."""
    path = kernel.folder / "arche_magic.toml"
    path.write_text(path.read_text().partition("[providers.house.prices]")[0] + "paid = true\n")
    said = "paid, price unknown"
    assert said in kernel.run("%llm -p house hi").data()[1]
    assert said in kernel.run("%llm_why").data()[0]
    assert said in kernel.run("%llm --compare house hi").data()[0]
    for sums in ("%llm_stats", "%llm_stats --by provider"):
        assert re.search(rf"{said}|\$[\d.]+ and more", kernel.run(sums).data()[0])
    assert "no limit is known · paid" in kernel.run("%llm_quota").data()[0]
