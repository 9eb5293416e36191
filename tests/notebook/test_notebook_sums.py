"""`%llm_stats --by`: sums per provider, model, day and notebook."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from notebook_kernel import Kernel


def rows(kernel: Kernel, by: str) -> list[dict[str, object]]:
    cell = kernel.run(f"s = %llm_stats --by {by}")
    assert cell.status == "ok", cell.error
    found: list[dict[str, object]] = json.loads(
        kernel.run("print(s.to_json(orient='records'))").printed
    )
    return found


def test_what_was_spent_is_summed(kernel: Kernel, sandboxed) -> None:
    """Of what was sent and not refused; a failed call counts as a request."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1})
    sandbox.fail("groq", "rate_limit_minute", times=1)
    kernel.run("__vsc_ipynb_file__ = '/home/somebody/study/survey.ipynb'")
    kernel.run("%llm -q One")
    kernel.run("%llm -q -p mistral Two")
    kernel.run("__vsc_ipynb_file__ = 'C:\\\\work\\\\other.ipynb'")
    sandbox.fail("mistral", "server_error", times=1)
    kernel.run("%llm -q -p mistral --patience 60 Three")
    by_provider = {row["provider"]: row for row in rows(kernel, "provider")}
    assert by_provider["mistral"]["requests"] == 4
    assert by_provider["mistral"]["served"] == 3
    assert by_provider["mistral"]["failed"] == 1
    assert "groq" not in by_provider
    used = sandbox.usage()["mistral_key_1"]["mistral-small-latest"]
    assert by_provider["mistral"]["output_tokens"] == used["output_tokens"]
    assert [row["model"] for row in rows(kernel, "model")] == ["mistral-small-latest"]
    (day,) = rows(kernel, "day")
    assert day["requests"] == 4
    notebooks = {row["notebook"]: row["requests"] for row in rows(kernel, "notebook")}
    assert notebooks == {"survey.ipynb": 2, "other.ipynb": 2}
    kernel.run("del __vsc_ipynb_file__")
    table = kernel.run("%llm_stats --by notebook").displays[0]["data"]["text/plain"]
    assert "all sessions of the last 31 days" in table
    assert "free" in table
    assert "somebody" not in table


def test_sums_of_nothing(kernel: Kernel, sandboxed) -> None:
    """A frame with its columns, and no row."""
    sandboxed(keys={"groq": 1})
    assert rows(kernel, "notebook") == []
    assert "--by goes without --plot" in kernel.run("%llm_stats --by day --plot").message
    assert kernel.run("%llm_stats --by hour").status == "error"
