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
        kernel.run("print(s.to_json(orient='records', date_format='iso'))").printed
    )
    return found


def test_usage_is_summed(kernel: Kernel, sandboxed) -> None:
    """Requests that were sent and not refused are counted, including failed ones."""
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
    assert table.split()[:4] == ["notebook", "requests", "answered", "failed"]
    assert "somebody" not in table


def test_sums_without_attempts_have_no_rows(kernel: Kernel, sandboxed) -> None:
    """The frame has its columns."""
    sandboxed(keys={"groq": 1})
    assert rows(kernel, "notebook") == rows(kernel, "tag") == []
    assert "--by cannot be combined with --plot" in kernel.run("%llm_stats --by day --plot").message
    assert kernel.run("%llm_stats --by hour").status == "error"


def test_a_tag_has_one_line(kernel: Kernel, sandboxed) -> None:
    """It sums a job and single prompts. For packed rows, it says how many checked rows agree."""
    limits = {"requests_per_minute": 1000, "requests_per_day": 1000}
    sandbox = sandboxed(keys={"google": 1}, limits={"google": limits})
    kernel.run("texts = [f'the {n} by the {n + 1}' for n in range(24)]")
    kernel.run("%llm -q --tag 'labels v2' What is a label?")
    kernel.run("%llm -q No tag")
    cell = kernel.run("%%llm -q --over texts --pack 8 --tag 'labels v2'\n{{prompt}}")
    assert cell.status == "ok", cell.error
    by_tag = {row["tag"]: row for row in rows(kernel, "tag")}
    assert set(by_tag) == {"labels v2", "(no tag)"}
    tagged = by_tag["labels v2"]
    assert tagged["requests"] == len(sandbox.requests) - 1
    assert (tagged["packed"], tagged["checked"], tagged["agreed"]) == (24, 4, 4)
    assert by_tag["(no tag)"]["packed"] == 0
    table = kernel.run("%llm_stats --by tag").displays[0]["data"]["text/plain"]
    assert "4 of 4" in table.splitlines()[1]
    (job,) = rows(kernel, "job")
    assert (job["tag"], job["rows"], job["packed"], job["agreed"]) == ("labels v2", 24, 24, 4)
    assert job["requests"] == tagged["requests"] - 1
    assert "labels v2" in kernel.run("%llm_stats --by job").displays[0]["data"]["text/plain"]
    # All replies are kept, so nothing is sent and nothing is added.
    kernel.run("%%llm -q --over texts --pack 8 --tag 'labels v2'\n{{prompt}}")
    assert len(rows(kernel, "job")) == 1
