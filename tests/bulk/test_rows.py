"""The prompt of a row equals that of a cell, for any template and values."""

from __future__ import annotations

import pandas as pd
from hypothesis import given, reject
from hypothesis import strategies as st

from arche_magic.bulk import Rows
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.prompts import Prompt, fill

PIECES = st.sampled_from(
    ["{{text}}", "{{ unit price }}", "{{text[0]}}", "{{2023}}", "\\{{text}}", "{{", "}}", "{other}",
     "\n", "\0", "0", "\0001\0", "Is it good? "]
)  # fmt: skip
TEXTS = st.text(min_size=1) | st.sampled_from(["{{text}}", "a\nb\n", "\0", "\\{{", " "])
VALUES = st.fixed_dictionaries({"text": TEXTS, "unit price": TEXTS | st.integers(), "2023": TEXTS})


@given(st.lists(PIECES, max_size=6), VALUES)
def test_the_prompt_of_a_row_is_that_of_a_cell(
    pieces: list[str], values: dict[str, str | int]
) -> None:
    """Rows of texts are filled in faster, with the same result."""
    template = "".join([*pieces, "{{text}}"])
    try:
        rows = Rows(pd.DataFrame([values], dtype=object), template)
    except InvalidRequest:
        # Adjacent pieces may name a column that does not exist, such as `{{` `0` `}}`.
        reject()
    ((_, prompt),) = rows.prompts(0, 1)
    assert isinstance(prompt, Prompt)
    assert prompt.text == fill(template, values, 2000).text
