"""Many prompts at the speed of the limits: one per row of a frame, resumed where they stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from .job import Job
from .progress import JobStopped, Progress, Row
from .results import Replies
from .rows import Rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Job", "JobStopped", "Progress", "Replies", "Row", "Rows", "imap", "map"]


def map(  # noqa: A001  # what the builtin does, for prompts
    data: Any,
    template: str | None = None,
    *,
    on_done: Callable[[Row], object] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Ask one prompt per row, and give back the data with the replies beside it.

    `map(reviews, "Is this positive or negative? {{text}}", schema="sentiment pos|neg")`. Finished
    rows are on disk at once (`outputs/llm_replies.sqlite`): interrupted, by whatever it may be, the
    same call goes on with the missing rows only.

    Args:
        data: a DataFrame, a Series or a list of texts; it is not changed.
        template: the prompt, with `{{column}}` for the values of a row. Without one, the texts of
            a Series or list are the prompts.
        on_done: called with each `Row` as it finishes.
        **options: see `Job`.

    Returns:
        The data with the columns `reply` (or the fields of the schema), `provider`, `model`,
        `tokens` and `error`, in its own order, with its own index.

    Raises:
        InvalidRequest: data, template or an option is wrong; nothing was spent.
        JobStopped: at one of the bounds, with the finished rows in `.frame`.
        LLMProviderError: no row can be asked, such as without a key.
    """
    job = Job(data, template, **options)
    replies = Replies(job)
    try:
        with closing(iter(job)) as rows:
            for row in rows:
                replies.add(row)
                if on_done:
                    on_done(row)
    except JobStopped as stopped:
        stopped.frame = replies.frame()
        raise
    return replies.frame()


def imap(data: Any, template: str | None = None, **options: Any) -> Iterator[Row]:
    """The rows as they finish, in whatever order; see `map`. Closing the iterator ends the job."""
    return iter(Job(data, template, **options))
