"""`%%llm --over`: one prompt for every row of a frame, the progress bar, and the result."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from notebook_kernel import Cell, Kernel, kernel_environment
from test_notebook_completion import offers
from test_notebook_replies import tags

from arche_magic.bulk import Progress, Row
from arche_magic.notebook.collect import FileRows
from arche_magic.notebook.progress_bar import Bar
from arche_magic.sandbox import Sandbox

Sandboxed = Callable[..., Sandbox]
PROMPT = "\nIs this positive? {{text}}"
ADDED = ["reply", "provider", "model", "tokens", "error"]
ONE_EACH = {"groq": 1, "mistral": 1}


@pytest.fixture
def start(kernel: Kernel, sandboxed: Sandboxed, tmp_path: Path) -> Sandboxed:
    """Starts a sandbox with a separate file of kept replies, and removes frames of other tests."""

    def begin(rows: int = 20, **settings: Any) -> Sandbox:
        sandbox = sandboxed(**{"keys": ONE_EACH, **settings})
        replies = str(tmp_path / "replies.sqlite")
        kernel.run(f"os.environ['ARCHE_REPLIES'] = {replies!r}")
        kernel.run(
            "import pandas as pd\n"
            "globals().pop('replies', None)\n"
            f"reviews = pd.DataFrame({{'text': [f'soup {{n}}' for n in range({rows})]}}, "
            f"index=range({rows}, 0, -1))\n"
            "before = reviews.copy()"
        )
        return sandbox

    return begin


def prompts(sandbox: Sandbox) -> list[str]:
    return [request.body["messages"][-1]["content"] for request in sandbox.requests]


def bar(cell: Cell) -> str:
    """The final state of the bar."""
    return cell.data()[0]


def done(text: str) -> int:
    """The number of finished rows that the bar shows."""
    return int(re.match(r"([\d,]+) of", text)[1].replace(",", ""))  # type: ignore[index]


def test_every_row_gets_its_reply(kernel: Kernel, start: Sandboxed) -> None:
    """A frame with the replies is shown and bound; order, index and data do not change."""
    sandbox = start()
    cell = kernel.run(f"%%llm --over reviews{PROMPT}")
    assert cell.status == "ok", cell.error
    assert sorted(prompts(sandbox)) == sorted(f"Is this positive? soup {n}" for n in range(20))
    assert kernel.value("list(replies)") == ["text", *ADDED]
    assert kernel.value("list(replies.index)") == list(range(20, 0, -1))
    assert kernel.value("[f'“Is this positive? {t}”' in r for t, r in replies[['text', 'reply']]"
                        ".itertuples(index=False)]") == [True] * 20  # fmt: skip
    assert kernel.value("(reviews.equals(before), list(reviews))") == (True, ["text"])
    assert kernel.value("replies.error.isna().all().item()") is True
    assert kernel.value("_ is replies or __ is replies") is True
    (shown,) = cell.results
    assert "soup 19" in shown


def test_the_final_bar_shows_the_figures_of_the_job(kernel: Kernel, start: Sandboxed) -> None:
    """One display, whose last state has rows, seconds, tokens and price; harmless HTML."""
    start()
    cell = kernel.run(f"%%llm --over reviews --into moods{PROMPT}")
    first, second = bar(cell).splitlines()
    assert re.fullmatch(r"20 of 20 rows  █{28}  20 in [\d.]+ s", first)
    assert re.fullmatch(r"[\d,]+ tokens · free · in the variable moods", second)
    html = cell.data("text/html")[0]
    assert tags(html) <= {"div", "span"}
    assert "width:100.00%" in html
    assert "var(" not in html.replace("var(--jp-content-font-color2,#797979)", "")
    again = kernel.run(f"%%llm --over reviews --into moods{PROMPT}")
    assert "20 from memory" in bar(again)
    assert len(bar(again).splitlines()) == 2


def test_a_clock_that_is_set_back_changes_no_duration() -> None:
    """The bar says how long the job took, not what the clock showed."""
    bar = Bar(SimpleNamespace(), quiet=True)  # type: ignore[arg-type]
    bar.update(Progress(0, 2), 1_000.0)
    bar.update(Progress(2, 2), 400.0)
    bar.finish("done")
    assert bar.end is not None
    assert "2 in 0.0 s" in bar.end["text/plain"]


def test_the_bar_is_updated_at_most_four_times_a_second(kernel: Kernel, start: Sandboxed) -> None:
    """It shows finished rows, speed and finish time."""
    start(60, latency=0.5)
    cell = kernel.run(f"%%llm --over reviews{PROMPT}")
    drawn = [
        (at, content["data"]["text/plain"])
        for at, kind, content in cell.messages
        if kind in ("display_data", "update_display_data")
    ]
    assert len(drawn) > 3
    assert len(drawn) <= 4 * (cell.ended - drawn[0][0]) + 3
    counts = [done(text) for _, text in drawn]
    assert counts == sorted(counts)
    assert any(re.search(r"rows/s · done in \d+ s", text) for _, text in drawn), drawn


def test_the_bar_says_which_route_it_waits_for(kernel: Kernel, start: Sandboxed) -> None:
    """It also says when the route opens, if nothing else is running."""
    start(8, keys={"groq": 1}, left={"groq": {"requests_per_minute": 4}})
    waiting = re.compile(r"\nwaiting: groq · key 1 · gpt-oss-120b opens in \d+ s")

    def is_waiting(cell: Cell) -> bool:
        return any(waiting.search(text) for text in cell.data())

    cell = kernel.run(f"%%llm --over reviews --reserve 0%{PROMPT}", interrupt_when=is_waiting)
    assert cell.message.startswith("Interrupted: ")


def test_an_interrupt_keeps_the_finished_rows(kernel: Kernel, start: Sandboxed) -> None:
    """They are in the variable; the same cell continues with the other rows."""
    sandbox = start(60, latency=0.4)
    cell = kernel.run(
        f"%%llm --over reviews{PROMPT}",
        interrupt_when=lambda cell: bool(cell.displays) and done(bar(cell)) >= 8,
    )
    assert cell.ended - cell.started < 1.0
    assert cell.status == "error"
    assert cell.message.startswith("Interrupted: ")
    first, second = bar(cell).splitlines()
    assert " interrupted · " in first
    finished = kernel.value("len(replies)")
    assert 8 <= finished < 60
    assert f"replies has the {finished} finished rows; run the cell again" in second
    assert kernel.value("replies.reply.notna().all().item()") is True
    assert kernel.value("set(replies.index) < set(reviews.index)") is True
    sandbox.latency = 0
    cell = kernel.run(f"%%llm --over reviews{PROMPT}")
    assert cell.status == "ok", cell.error
    assert kernel.value("(len(replies), replies.error.isna().all().item())") == (60, True)
    # Requests in progress at the interrupt may have been sent twice, by at most 64 threads.
    assert len(prompts(sandbox)) <= 60 + 64
    resumed = int(re.search(r"(\d+) from memory", bar(cell))[1])  # type: ignore[index]
    assert resumed >= finished


def test_a_bound_stops_the_job_and_keeps_the_finished_rows(
    kernel: Kernel, start: Sandboxed
) -> None:
    """`--stop-after` fails the cell with one line that says why."""
    sandbox = start(40)
    sandbox.fail("groq", "invalid_request", times=None)
    sandbox.fail("mistral", "invalid_request", times=None)
    cell = kernel.run(f"%%llm --over reviews --stop-after 2{PROMPT}")
    assert cell.status == "error"
    assert cell.error_name == "JobStopped"
    assert len(cell.error) == 1
    assert " stopped · " in bar(cell)
    assert kernel.value("replies.error.notna().sum().item() >= 2") is True
    kernel.run("one = reviews[:1] + '!'")
    cell = kernel.run(f"%%llm --over one --stop-after 1{PROMPT}")
    assert "replies has the 1 finished row; run the cell again" in bar(cell)


def test_a_failed_row_has_its_error_and_stops_nothing(kernel: Kernel, start: Sandboxed) -> None:
    """The bar counts it."""
    start()
    kernel.run("reviews.loc[20, 'text'] = None")
    cell = kernel.run(f"%%llm --over reviews{PROMPT}")
    assert cell.status == "ok"
    assert "1 error, see the column error" in bar(cell)
    assert "has no value" in kernel.value("replies.error[20]")
    assert kernel.value("replies.reply.notna().sum().item()") == 19


def test_fields_of_a_schema_are_columns(kernel: Kernel, start: Sandboxed) -> None:
    """They replace the column with the text of the reply."""
    start(6)
    line = '%%llm --over reviews --schema "mood good|bad, score float"'
    cell = kernel.run(f"{line}{PROMPT}")
    assert cell.status == "ok", cell.error
    assert kernel.value("list(replies)[:3]") == ["text", "mood", "score"]
    assert kernel.value("replies.mood.isin(['good', 'bad']).all().item()") is True
    again = line.replace("--over reviews", "--over replies --into second")
    cell = kernel.run(f"{again}{PROMPT}")
    assert "the data already has columns 'mood', 'score', 'provider'" in str(cell.error)
    cell = kernel.run(f"{again} --prefix v2_{PROMPT}")
    assert cell.status == "ok", cell.error
    assert kernel.value("list(second)[-6:-3]") == ["v2_mood", "v2_score", "v2_provider"]
    assert kernel.value("(second.mood == second.v2_mood).all().item()") is True


def test_variables_are_the_same_for_every_row(kernel: Kernel, start: Sandboxed) -> None:
    """Names that are not columns are variables; their values are not expanded again."""
    sandbox = start(3)
    kernel.run("kinds, stars = ['good', '{{text}}'], 'column wins'; reviews['stars'] = 5")
    cell = kernel.run("%%llm --over reviews\nOne of {{kinds}}? {{text}} {{stars}} \\{{text}}")
    assert cell.status == "ok", cell.error
    assert min(prompts(sandbox)) == 'One of ["good", "{{text}}"]? soup 0 5 {{text}}'


def test_braces_in_values_are_not_expanded(kernel: Kernel, start: Sandboxed) -> None:
    """Columns are replaced only in the prompt as typed."""
    sandbox = start(3)
    kernel.run("a, b, back = '{{te', 'xt}}', 'x\\\\'")
    cell = kernel.run("%%llm --over reviews\n{{a}}{{b}} {{back}}{{text}} {{{b}}}")
    assert cell.status == "ok", cell.error
    assert min(prompts(sandbox)) == "{{text}} x\\soup 0 {xt}}}"


def test_a_plan_sends_nothing(kernel: Kernel, start: Sandboxed) -> None:
    """Rows, tokens, routes with their limits, finish time, and what paid routes would change."""
    sandbox = start(3000, keys={"groq": 1, "openai": 1})
    cell = kernel.run(f"%%llm --over reviews --plan --by 23:59 --pack 1{PROMPT}")
    assert cell.status == "ok", cell.error
    (plain,), (html,) = cell.data(), cell.data("text/html")
    assert plain.startswith("3,000 rows\n")
    assert re.search(r"Done in \d+ days, about .* · free\n", plain)
    assert re.search(r"[\d,]+ to [\d,]+ tokens, about \d+ a row", plain)
    assert re.search(r"groq · key 1 · gpt-oss-120b +3,000 +3,000  [\d,]+ .* per day", plain)
    paid = r"With paid routes as well: done in \d+ min, about .*, about \$\d\.\d\d\n"
    assert re.search(paid, plain)
    assert re.search(r"By (\w+ )?23:59: no, [\d,]+ of 3,000 rows; sooner with\n", plain)
    assert plain.endswith("Nothing was sent.")
    assert tags(html) <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert len(sandbox.requests) == 0
    assert kernel.value("'replies' in globals()") is False


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--over reviws{}", "--over reviws: there is no variable 'reviws'; did you mean 'reviews'"),
        ("--over reviews\nIs {{txt}} positive?", "there is no column 'txt'; did you mean 'text'"),
        (
            "--over reviews\nIs it positive?",
            "names no column, so it would be the same for every row",
        ),
        ("--over reviews\n \n ", "the prompt is empty"),
        ("--over before.shape{}", "list"),
        ("--over 5{}", "--over"),
        ("--over reviews.head(){}", "not 'reviews.head()'; assign the value to a variable"),
        ("--over reviews --into 2x{}", "--into '2x' is not a valid variable name"),
        ("--over reviews --into sum{}", "--into 'sum' would hide the builtin sum"),
        ("--over reviews -o Out{}", "'Out' is a name that IPython or Python uses"),
        ("--over reviews --into moods -o moods{}", "--into and -o both name the result"),
        ("--over reviews --pack many{}", "--pack 'many' is not a number of rows"),
        ("--over reviews --pack ²{}", "--pack '²' is not a number of rows"),
        ("--over reviews --reserve 120%{}", "--reserve '120%' is not a share"),
        ("--over reviews --plan --by soon{}", "write a time such as 08:00"),
        ("--over reviews --plan --patience -1{}", "patience is -1.0"),
        ("--over reviews --by 08:00{}", "--by needs --plan"),
        ("--over reviews --max-cost -1{}", "max_cost is -1.0"),
        ("--over reviews --stop-after 0{}", "stop_after is 0"),
        ("--over reviews --chat tutor{}", "--over cannot be combined with --chat"),
        ("--over reviews --max-rounds 0{}", "--over cannot be combined with --max-rounds"),
        ("--over reviews --into ''{}", "--into is empty"),
        ("--over reviews --sep ,{}", "--encoding, --sep and --sheet need --over FILE"),
        ("--over reviews --no-keep{}", "--over keeps each reply"),
        ("--over reviews -p grok{}", "unknown provider 'grok'; did you mean 'groq'"),
        ("--over reviews --schema 'text str'{}", "already has a column 'text'"),
        ("--over nowhere.csv --into out.csv{}", "there is no file nowhere.csv"),
        ("--over nowhere.csv --plan{}", "there is no file nowhere.csv"),
        ("--stop-after 3\nhello", "--stop-after needs --over FRAME"),
        ("--max-cost 0\nhello", "--max-cost needs --over FRAME"),
        ("--into moods\nhello", "--into needs --over FRAME"),
    ],
)
def test_an_invalid_job_is_refused_before_anything_is_sent(
    kernel: Kernel, start: Sandboxed, line: str, message: str
) -> None:
    """One line says what to change; no quota is used and no variable is overwritten."""
    sandbox = start(3)
    cell = kernel.run("%%llm " + line.replace("{}", PROMPT))
    assert cell.status == "error"
    assert message in cell.message
    assert len(sandbox.requests) == 0
    assert kernel.value("reviews.equals(before)") is True


def test_with_only_paid_routes_the_error_suggests_allow_paid(
    kernel: Kernel, start: Sandboxed
) -> None:
    """A job spends no money without permission."""
    sandbox = start(3, keys={"openai": 1})
    cell = kernel.run(f"%%llm --over reviews{PROMPT}")
    assert "only paid routes can answer (openai)" in cell.message
    assert "--allow-paid" in cell.message
    assert len(sandbox.requests) == 0
    assert kernel.run(f"%%llm --over reviews --allow-paid{PROMPT}").status == "ok"


def test_a_variable_of_the_user_is_not_replaced_by_default(
    kernel: Kernel, start: Sandboxed
) -> None:
    """The default name is `replies`, unless it holds something else."""
    sandbox = start(3)
    kernel.run("replies = 'mine'")
    cell = kernel.run(f"%%llm --over reviews{PROMPT}")
    assert "the variable 'replies' already exists" in cell.message
    assert len(sandbox.requests) == 0
    assert kernel.run(f"%%llm --over reviews --into replies{PROMPT}").status == "ok"
    assert kernel.run(f"%%llm --over reviews{PROMPT}").status == "ok"


def test_the_final_bar_has_the_last_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """They may finish while the progress is read for the bar."""

    class LastRows:
        to, quality, done = "out.csv", "", 0
        read, counted = threading.Event(), threading.Event()

        def __iter__(self) -> Iterator[Row]:
            self.read.wait(30)
            self.done = 3
            self.counted.set()
            yield from ()

        def progress(self) -> Progress:
            before = self.done
            self.read.set()
            self.counted.wait(30)
            time.sleep(0.05)  # until the thread that collects the rows has ended
            return Progress(before, 3, 0, 0, 0.0, None, None, 0.0, 0)

    job: Any = LastRows()
    shell: Any = None
    FileRows(job).collect(Bar(shell))
    assert capsys.readouterr().out.startswith("3 of 3 rows")


def test_a_job_without_a_finished_row_says_so(kernel: Kernel, start: Sandboxed) -> None:
    """Its frame has no rows."""
    start(3)
    cell = kernel.run(f"%%llm --over reviews --into moods --max-tokens-total 1{PROMPT}")
    assert cell.message.startswith("JobStopped: nothing was sent")
    assert bar(cell).endswith("moods has no finished rows; run the cell again")
    assert kernel.value("len(moods)") == 0


def test_quiet_shows_nothing(kernel: Kernel, start: Sandboxed) -> None:
    """`-q` only binds the frame."""
    start(3)
    cell = kernel.run(f"%%llm -q --over reviews --into moods{PROMPT}")
    assert (cell.status, cell.displays, cell.printed) == ("ok", [], "")
    assert kernel.value("len(moods)") == 3


def test_an_empty_frame_gives_an_empty_frame(kernel: Kernel, start: Sandboxed) -> None:
    """It has all columns, and no request is sent."""
    sandbox = start(0)
    cell = kernel.run(f"%%llm --over reviews{PROMPT}")
    assert cell.status == "ok", cell.error
    assert kernel.value("(len(replies), list(replies))") == (0, ["text", *ADDED])
    assert len(sandbox.requests) == 0


def test_a_csv_that_reads_as_one_column_suggests_sep(kernel: Kernel, start: Sandboxed) -> None:
    """In many countries, spreadsheets separate fields with `;`."""
    sandbox = start(9)
    kernel.run("reviews.assign(stars=5).to_csv('stars.csv', sep=';', index=False)")
    for plan in ("", " --plan"):
        refused = kernel.run(f"%%llm --over stars.csv --into out.csv{plan}{PROMPT}")
        assert "has one column, 'text;stars'; add --sep ';'" in refused.message
    assert len(sandbox.requests) == 0
    cell = kernel.run(f"%%llm --over stars.csv --into out.csv --sep ';'{PROMPT}")
    assert cell.status == "ok", cell.error


@pytest.mark.parametrize("source", ["reviews.csv", 'files["in"]'])
def test_a_file_is_written_from_a_file(kernel: Kernel, start: Sandboxed, source: str) -> None:
    """The bar shows the progress, and no variable is set. A variable may have the path."""
    start(9)
    kernel.run("reviews.to_csv('reviews.csv', index=False)")
    kernel.run("import pathlib\nfiles = {'in': pathlib.Path('reviews.csv')}")
    cell = kernel.run(f"%%llm --over {source} --into moods.csv{PROMPT}")
    assert cell.status == "ok", cell.error
    assert "9 of 9 rows" in bar(cell)
    assert "written to moods.csv" in bar(cell)
    result = pd.read_csv(kernel.folder / "moods.csv")
    assert list(result) == ["text", *ADDED]
    assert list(result.text) == [f"soup {n}" for n in range(9)]
    assert result.reply.notna().all()
    assert kernel.value("'replies' in globals()") is False


def test_a_file_is_planned_like_a_frame(kernel: Kernel, start: Sandboxed) -> None:
    """Its rows are counted, nothing is sent, and no target file is needed yet."""
    sandbox = start(9)
    kernel.run("reviews.to_csv('reviews.csv', index=False)")
    cell = kernel.run(f"%%llm --over reviews.csv --plan{PROMPT}")
    assert cell.status == "ok", cell.error
    assert cell.data()[0].startswith("9 rows\n")
    assert len(sandbox.requests) == 0
    cell = kernel.run(f"%%llm --over reviews.csv{PROMPT}")
    assert "name a file for the rows" in cell.message


def test_frames_complete_after_over(kernel: Kernel, start: Sandboxed) -> None:
    """Variables without rows are not offered."""
    start(3)
    kernel.run("number, words = 5, ['a', 'b']")
    found = offers(kernel, "%%llm --over ")
    assert {"reviews", "before", "words"} <= set(found)
    assert "number" not in found


def test_a_log_gets_only_the_final_state(tmp_path: Path) -> None:
    """The log of a scheduled job has two lines of plain text and no moving bar."""
    (tmp_path / "job.ipy").write_text(
        "%load_ext arche_magic\n"
        "texts = list('abcdef')\n"
        "%llm --over texts Is this positive? {{prompt}}\n"
    )
    with Sandbox(keys={"groq": 1}) as sandbox:
        ran = subprocess.run(
            [sys.executable, "-m", "IPython", "--colors=NoColor", "job.ipy"],
            cwd=tmp_path, env=kernel_environment(tmp_path, **sandbox.environment()),
            capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    assert ran.stderr == ""
    assert "\r" not in ran.stdout
    assert re.match(r"6 of 6 rows  █+  6 in [\d.]+ s\n[\d,]+ tokens · free · in the", ran.stdout)


def test_a_cell_reports_the_quality_of_its_labels(kernel: Kernel, start: Sandboxed) -> None:
    """Rows asked twice and known labels have figures in the bar's last line and as frames."""
    sandbox = start()
    kernel.run("reviews['label'] = ['good', 'bad'] * 10")
    options = "--over reviews --schema 'mood good|bad' --twice 10% --gold label --details"
    plan = kernel.run(f"%%llm {options} --plan{PROMPT}").data()[0]
    assert re.search(r"20 rows; 2 of them asked again, by \S+", plan)
    assert not sandbox.requests
    cell = kernel.run(f"%%llm {options}{PROMPT}")
    assert cell.status == "ok", cell.error
    assert len(sandbox.requests) == 22
    last = bar(cell).splitlines()[-1]
    assert "2 of 2 rows asked twice" in last
    assert re.search(r"asked twice: mood agrees in [012] of 2 rows", last)
    assert re.search(r"gold: mood is correct in \d+ of 20 rows \([\d.]+ %\)", last)
    kernel.run("import arche_magic; q = arche_magic.quality(replies)")
    assert kernel.run("print(q.agreement.compared[0], q.accuracy.compared[0])").printed == "2 20\n"
    assert kernel.run("print(q.confusion().to_numpy().sum())").printed == "20\n"
    assert kernel.run("print(*replies.columns[-6:])").printed.split() == [
        "key", "seconds", "cost_usd", "request", "second_mood", "second_model"
    ]  # fmt: skip
    for wrong, words in (
        ("--twice 150%", "--twice '150%' is not a share such as 10% or 0.1"),
        ("--gold text", "the prompt contains the column 'text'"),
    ):
        refused = kernel.run(f"%%llm --over reviews {wrong}{PROMPT}")
        assert words in refused.message
    assert "--twice" in kernel.run("%llm --twice 5% Hello").message
