"""`%llm_models`: the models of the catalog, filtered."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import arche_magic

if TYPE_CHECKING:
    from notebook_kernel import Kernel

CATALOG = tomllib.loads(
    (Path(arche_magic.__file__).parent / "llm_providers" / "catalog.toml").read_text("utf-8")
)["providers"]


def test_all_models_of_the_catalog_are_listed(kernel: Kernel) -> None:
    """There is a row per model, each provider's default first.

    The frame has the published figures.
    """
    cell = kernel.run("frame = %llm_models")
    assert cell.status == "ok", cell.error
    found = kernel.value("list(zip(frame['provider'], frame['model'], frame['default']))")
    for name, provider in CATALOG.items():
        models = [model for owner, model, _ in found if owner == name]
        assert set(models) >= {*provider["models"], *provider["limits"]}
        assert [m for owner, m, first in found if owner == name and first] == provider["models"]
        assert models[: len(provider["models"])] == provider["models"]
    limit = CATALOG["groq"]["limits"]["openai/gpt-oss-20b"]["tokens_per_day"]
    row = "frame[frame['model'] == 'openai/gpt-oss-20b'].iloc[0]"
    assert kernel.value(f"int({row}['tokens_per_day'])") == limit
    context = CATALOG["groq"]["context_windows"]["openai/gpt-oss-20b"]
    assert kernel.value(f"int({row}['context'])") == context
    assert kernel.value(f"{row}['source'] != ''") is True
    assert kernel.value("frame['paid'].groupby(frame['provider']).first().to_dict()") == {
        name: provider["paid"] for name, provider in CATALOG.items()
    }


def test_a_filter_matches_providers_and_parts_of_names(kernel: Kernel) -> None:
    """A provider's name selects the provider; other words are parts of model names."""
    kernel.run("frame = %llm_models openai")
    assert kernel.value("set(frame['provider'])") == {"openai"}
    kernel.run("frame = %llm_models groq OSS Safe")
    assert kernel.value("list(frame['model'])") == ["openai/gpt-oss-safeguard-20b"]
    cell = kernel.run("frame = %llm_models groq mistral-large")
    assert kernel.value("len(frame)") == 0
    assert cell.status == "ok"
    assert "no model in the catalog matches" in cell.data()[0]
    assert "did you mean 'mistral'" in kernel.run("%llm_models mistrl").data()[0]


def test_the_table_is_narrow_and_names_its_sources(kernel: Kernel) -> None:
    """Columns without figures are omitted, and numbers are right-aligned."""
    cell = kernel.run("%llm_models groq")
    head, *lines = cell.data()[0].splitlines()
    assert "tokens/day" in head
    assert "tokens/month" not in head
    assert max(map(len, [head, *lines[:-3]])) <= 140
    right = head.index("tokens/min") + len("tokens/min")
    assert {line[right - 1] for line in lines if "8,000" in line} == {"0"}
    assert any(line.startswith("groq: https://") for line in lines)
    assert "trains on prompts: unknown for free accounts" in lines[-2]
    assert "https://console.groq.com/docs/your-data" in lines[-2]
    assert "genai-prices" in lines[-1]
    html = cell.data("text/html")[0]
    assert html.count("<tr") == len(lines) - 3 + 1
    # On a narrow page, heads and names of models wrap, so that fewer columns need scrolling.
    assert "white-space:nowrap" not in html.partition("</thead>")[0]
    assert "requests/<wbr>day" in html
    assert re.search(r"white-space:normal[^>]*>openai/gpt-oss-120b", html)


def test_prices_are_for_paying_accounts(kernel: Kernel) -> None:
    """Input and output tokens have separate prices if the price table has the model."""
    kernel.run("frame = %llm_models gpt-4.1-mini")
    prices = kernel.value(
        "frame[['input_usd_per_million', 'output_usd_per_million']].iloc[0].tolist()"
    )
    assert 0 < prices[0] < prices[1] < 100
