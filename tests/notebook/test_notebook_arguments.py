"""The line of `%llm` and `%%llm`: options first, then text that is sent unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from arche_magic.notebook.magics import COMMANDS

if TYPE_CHECKING:
    from notebook_kernel import Kernel

TEXTS = [
    'say "hello',
    "it's {x} and {{ 1 }} and {{x,y},{z}} at $HOME for $x",
    r"C:\new \\server \"quoted\"",
    "f(x) = { 1 } ; print(?) !ls %who",
    "-",
    "- a list item",
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_of_a_line_is_sent_unchanged(kernel: Kernel, sandboxed, text: str) -> None:
    """Quotes, braces, dollar signs and backslashes are neither removed nor expanded."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("x = 'EXPANDED'")
    cell = kernel.run(f"%llm -q -t 0.5 {text}")
    assert cell.status == "ok", cell.error
    assert sandbox.requests[0].body["messages"][-1]["content"] == text


def test_the_text_of_a_cell_is_sent_unchanged(kernel: Kernel, sandboxed) -> None:
    """Only the newline that IPython appends to a cell is removed."""
    sandbox = sandboxed(keys={"groq": 1})
    body = "\n".join(["-p is no option here", *TEXTS, '{"json": [1, {"a": "b"}]}'])
    cell = kernel.run(f"%%llm -q\n{body}")
    assert cell.status == "ok", cell.error
    assert sandbox.requests[0].body["messages"][-1]["content"] == body
    kernel.run("%%llm -q\n  two lines,\n\n\tand spaces  \n")
    assert sandbox.requests[1].body["messages"][-1]["content"] == "  two lines,\n\n\tand spaces  "


@pytest.mark.parametrize(
    ("line", "system", "prompt"),
    [
        ('-s "Be brief." hi', "Be brief.", "hi"),
        ("-s 'Say \"yes\".' hi", 'Say "yes".', "hi"),
        (r'-s "Say \"yes\"." hi', 'Say "yes".', "hi"),
        ("--system=Brief hi", "Brief", "hi"),
        ('--system="Be brief" hi', "Be brief", "hi"),
        ("-sBrief hi", "Brief", "hi"),
        ('-s visitor["first name"] hi', 'visitor["first name"]', "hi"),
        ('-s "To visitor["first name"]." hi', 'To visitor["first name"].', "hi"),
        ("-s 'To visitor['first name'].' hi", "To visitor['first name'].", "hi"),
        ('-s "An open [" hi', "An open [", "hi"),
        ('-s "- a dash" hi', "- a dash", "hi"),
        ("-s Brief -- -t is an option", "Brief", "-t is an option"),
        ("-s Brief it isn't -t 3", "Brief", "it isn't -t 3"),
        ('-s "--" hi', "--", "hi"),
    ],
)
def test_values_may_be_quoted(
    kernel: Kernel, sandboxed, line: str, system: str, prompt: str
) -> None:
    """The quotes are removed, except in brackets.

    `--`, or a word that is not an option, ends the options.
    """
    sandbox = sandboxed(keys={"groq": 1})
    cell = kernel.run(f"%llm -q {line}")
    assert cell.status == "ok", cell.error
    sent = [message["content"] for message in sandbox.requests[0].body["messages"]]
    assert sent == [system, prompt]


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("hi -t 0 -o answer", "'-t 0 -o answer' is part of the prompt; options come before it"),
        ("hi --quiet", "'--quiet' is part of the prompt; options come before it"),
        ("hi -t warm", ""),
        ("a - b -- c --", ""),
        ("What does -t mean?", ""),
    ],
)
def test_options_after_the_text_are_named_above_the_reply(
    kernel: Kernel, sandboxed, line: str, note: str
) -> None:
    """They are sent as typed."""
    sandbox = sandboxed(keys={"groq": 1})
    cell = kernel.run(f"%llm {line}")
    assert sandbox.requests[0].body["messages"][-1]["content"] == line
    assert [text for text in cell.data() if "part of the prompt" in text] == [note] * bool(note)


@pytest.mark.parametrize(
    ("line", "is_noted"),
    [
        ("-s Be brief. What?", True),
        ("--system=Be brief. What?", True),
        ("-s Brief. What is X?", False),
        ("-s 'Be' brief. What?", False),
        ("-s Be -t 0 brief. What?", False),
        ("-s role What?", False),
    ],
)
def test_a_system_prompt_that_may_lack_its_quotes_is_named_above_the_reply(
    kernel: Kernel, sandboxed, line: str, is_noted: bool
) -> None:
    """There is no note if it is quoted, is a variable, has a full stop, or an option follows."""
    sandboxed(keys={"groq": 1})
    kernel.run("role = 'A poet.'")
    note = "the system prompt is 'Be'; put a longer one in quotes: -s \"Be …\""
    assert (note in kernel.run(f"%llm {line}").data()) == is_noted


def test_options_reach_the_provider(kernel: Kernel, sandboxed) -> None:
    """-p, -m, -t and --max-tokens set the route and the parameters of the request."""
    sandbox = sandboxed()
    assert kernel.run("%llm -q -p openai -t 0 --max-tokens 12 hi").status == "ok"
    assert kernel.run("%llm -q -m gpt-oss-20b hi").status == "ok"
    first, second = sandbox.requests
    assert (first.provider, first.body["temperature"]) == ("openai", 0)
    assert 12 in (first.body.get("max_tokens"), first.body.get("max_completion_tokens"))
    assert (second.provider, second.body["model"]) == ("groq", "openai/gpt-oss-20b")


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ('%llm -s "never closed hi', "the quote at"),
        (r'%llm -s "never \"closed hi', "the quote at"),
        ("%llm --temprature 1 hi", "did you mean '--temperature'?"),
        ("%llm --temp 1 hi", "unknown option --temp; did you mean '--temperature'?"),
        ("%llm --fil notes.md hi", "unknown option --fil; did you mean '--file'?"),
        ("%llm --quit hi", "unknown option --quit; did you mean '--quiet'?"),
        ("%llm_explain --file notes.md", "unknown option --file; put -- before a text"),
        ("%llm -x hi", "unknown option -x"),
        ("%llm -5 degrees", "put -- before a text that starts with a dash"),
        ("%llm_explain -5 degrees", "put -- before a text that starts with a dash"),
        ("%llm_quota -x", "unknown option -x; %llm_quota --help lists the options"),
        ("%llm hi -o", None),
        ("%llm -t", "-t needs a value: -t NUMBER"),
        ("%llm --chat", "--chat needs a value: --chat NAME"),
        ("%llm_stats --by", "--by needs a value: --by provider|model|"),
        ("%llm -t warm hi", "'warm' is not a number"),
        ("%llm --max-tokens 1.5 hi", "'1.5' is not a whole number"),
        ("%llm -q=yes hi", "-q"),
        ("%llm -o 3x hi", "-o '3x' is not a valid variable name"),
        ("%llm -o for hi", "-o 'for' is not a valid variable name"),
        ("%llm -o print hi", "-o 'print' would hide the builtin print"),
        ("%llm -o get_ipython hi", "-o 'get_ipython' is a name that IPython or Python uses"),
        ("%llm -o exit hi", "-o 'exit' is a name that IPython or Python uses"),
        *(
            (f"%%llm -o {name}\nhi", f"-o '{name}' is a name that IPython or Python uses")
            for name in ("In", "Out", "_", "__", "_3", "_i", "_i3", "_oh", "__name__")
        ),
        ("%llm --compare groq,mistral -o list hi", "-o 'list' would hide the builtin list"),
        ("%%llm what is\nthis", "'what' is not an option; the prompt goes in the lines below"),
        ("%%llm -s Be brief.\nWhat?", "lines below, and a value with spaces needs quotes"),
        ('%llm --compare "," hi', "--compare takes 1 to 8 names"),
        ("%llm_last -o 1a", "InvalidRequest: -o '1a' is not a valid variable name"),
        ("%llm -q", "the prompt is empty"),
        ("%%llm\n  \n", "the prompt is empty"),
        ("%llm -p gorq hi", "unknown provider 'gorq'; did you mean 'groq'?"),
        ("%llm -m groq hi", "'groq' is a provider, not a model; use provider='groq' (-p groq)"),
        ("%llm -m gpt-oss-12b hi", "unknown model 'gpt-oss-12b'; "),
        ("%llm -p mistral -m openai/gpt-oss-120b hi", "a model of groq, not of mistral"),
        ("%llm --max-tokens 0 hi", "max_tokens is 0; it must be 1 or more"),
        ("%llm -t 9 hi", "temperature is 9; it must be 0 to 2"),
        ("%llm -t nan hi", "temperature is nan"),
        ("%llm --patience -1 hi", "patience is -1; it must be 0 or more"),
        ("%llm_stats groq", "takes no text"),
        ('%llm -m "" hi', "%llm: --model is empty; give it a value, or leave it out"),
        ("%llm -p '' hi", "--provider is empty"),
        ("%llm --chat= hi", "--chat is empty"),
        ("%llm_explain -m ''", "%llm_explain: --model is empty"),
        ("%%llm --over rows --prefix ''\nhi", "--prefix is empty"),
        ("%llm --stop '' hi", "%llm: --stop is empty"),
        ("%llm --file '' hi", "%llm: --file is empty"),
        ("%llm_why gsk_abcdefgh12345678", "%llm_why: '[key]' is not a reply"),
        ("%llm_stats gsk_abcdefgh12345678", "takes no text, but got '[key]'"),
        ("%llm --tools gsk_abcdefgh12345678 hi", "--tools '[key]' is not a variable"),
        ("%llm -s 'gsk_abcdefgh12345678", 'the quote at "\'[key]" is never closed'),
    ],
)
def test_an_invalid_option_fails_the_cell_in_one_line(
    kernel: Kernel, sandboxed, cell: str, said: str | None
) -> None:
    """Nothing is sent."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1})
    done = kernel.run(cell)
    if said is None:  # an option after the text is part of the text
        assert done.status == "ok"
        return
    assert done.status == "error"
    assert said in done.message
    assert "\n" not in done.message
    assert "Traceback" not in done.message
    assert done.displays == []
    assert sandbox.requests == ()


def flags_with_values(magic: Any) -> list[str]:
    options = (action for action in magic.parser._actions if action.nargs != 0)
    return [flag for option in options for flag in option.option_strings]


@pytest.mark.parametrize(
    "magic", [m for m in COMMANDS if flags_with_values(m)], ids=lambda m: m.__name__
)
def test_a_forgotten_value_before_two_dashes_fails_the_cell_in_one_line(
    kernel: Kernel, sandboxed, magic: Any
) -> None:
    """For every option that takes a value; nothing is sent."""
    sandbox = sandboxed(keys={"groq": 1})
    for flag in flags_with_values(magic):
        said = f"InvalidRequest: %{magic.__name__}: {flag} needs a value: {flag} "
        for line in (f"{flag} -- hi", f"{flag} --", f"{flag}=-- hi"):
            assert kernel.run(f"%{magic.__name__} {line}").message.startswith(said)
    assert sandbox.requests == ()
