"""`%llm_why` explains a choice, and the lines below `%llm_quota` look ahead."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from notebook_kernel import Kernel


def test_why_names_every_route_and_what_would_change_it(kernel: Kernel, sandboxed) -> None:
    """The route that was shut, the one that answered, and those that were not needed."""
    sandboxed(keys={"groq": 2, "mistral": 1}, left={"groq_key_1": {"requests_per_day": 1}})
    kernel.run("%llm -q one")
    kernel.run("%llm -q two")
    cell = kernel.run("w = %llm_why")
    text = cell.displays[0]["data"]["text/plain"]
    assert "0 of 1,000 requests per day left" in text
    assert "asking 87 s later" in text or "asking 86 s later" in text
    rows = json.loads(
        kernel.run("print(w.drop(columns='opens_at').to_json(orient='records'))").printed
    )
    verdicts = {row["key"]: row["verdict"] for row in rows}
    assert verdicts == {
        "groq_key_1": "shut",
        "groq_key_2": "answered",
        "mistral_key_1": "not needed",
    }


def test_why_takes_a_reply_by_its_name(kernel: Kernel, sandboxed) -> None:
    """An earlier reply is explained as it was then; what is no reply is refused in one line."""
    sandboxed(keys={"groq": 1, "mistral": 1})
    kernel.run("%llm -q -p mistral -o first one")
    kernel.run("%llm -q two")
    text = kernel.run("%llm_why first").displays[0]["data"]["text/plain"]
    assert "mistral · key 1 · mistral-small-latest  answered" in text
    refused = kernel.run("%llm_why text")
    assert refused.status == "error"
    assert "is no reply" in refused.message


def test_quota_says_how_many_prompts_still_fit(kernel: Kernel, sandboxed) -> None:
    """Below the table: prompts like the last one, now and until midnight; also in the frame."""
    sandboxed(keys={"groq": 1, "openai": 1}, left={"groq": {"requests_per_day": 8}})
    kernel.run("%llm -q one")
    cell = kernel.run("q = %llm_quota")
    assert "that the free routes take: 7 now, " in cell.displays[0]["data"]["text/plain"]
    assert "until midnight" in cell.displays[0]["data"]["text/html"]
    outlook = json.loads(kernel.run("import json; print(json.dumps(q.attrs['outlook']))").printed)
    assert 0 < outlook["fit_now"] <= outlook["fit_until_midnight"]
