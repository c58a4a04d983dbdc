"""Commands of a README: which there are, and whether a file runs one; and the figures that it says were measured."""

import re
import shlex
from collections.abc import Iterator

FENCE = re.compile(r"^[ \t]*```(\w*)[^\n]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
UP_TO_COMMENT = re.compile(r"""(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|(?<=\S)\#|[^\#])*""")
MEASURED = re.compile(r"<!-- measured -->(.*?)<!-- measured ends -->", re.DOTALL)
FIGURE = re.compile(r"(?<![\w.,-])\d+(?:[.,-]\d+)*(?:\s[%×])?(?![\w%])", re.ASCII)
SHELLS = ("bash", "sh", "shell", "console")


def read_commands(markdown: str) -> list[str]:
    """The commands of all fenced shell blocks, once each: ["make demo", "python train.py --config recipes/demo.yaml"].

    Lines that end in a backslash are joined, comments left out; in a block where lines begin with `$ `, only these
    are commands and the others their output.
    """
    commands: list[str] = []
    for language, block in FENCE.findall(markdown):
        if language in SHELLS:
            lines = [line.strip() for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines()]
            if any(line.startswith("$ ") for line in lines):
                lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            commands += [without_comment(line) for line in lines]
    return [command for command in dict.fromkeys(commands) if command]


def without_comment(line: str) -> str:
    """`make demo   # ten minutes` -> `make demo`; a # inside quotes or inside a word stays."""
    return UP_TO_COMMENT.match(line).group().rstrip()


def script_calls(command: str) -> Iterator[list[str]]:
    """The Python calls of a command, pipes and && included: [["chat.py"]] for `printf 'hi' | python chat.py`."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    call: list[str] = []
    for word in [*lexer, ";"]:
        if word and set(word) <= set("|&;<>"):
            while call and re.fullmatch(r"[A-Z_]+=.*", call[0]):  # SFT_SEED=1 python train.py
                call = call[1:]
            if call and call[0].rpartition("/")[2] in ("python", "python3"):
                yield call[1:]
            call = []
        else:
            call.append(word)


def read_figures(text: str) -> set[str]:
    """Numbers with the % or × behind them, and dates: "16,563 token, 60 %, 7B" -> {"16,563", "60 %"}."""
    return {" ".join(figure.split()) for figure in FIGURE.findall(text)}


def measured_figures(markdown: str) -> set[str]:
    """The figures between the comments `measured` and `measured ends`, code left out."""
    return {figure for part in MEASURED.findall(markdown) for figure in read_figures(re.sub("`.*?`", "", part))}


def words_of(text: str) -> list[str]:
    """The words of a command or of code that makes one: `run("train.py", "--max_steps", "3")` -> run train.py …"""
    return re.findall(r"[^\s\"'`,\[\]()$|@]+", text)


def is_run_in(command: str, text: str) -> bool:
    """Whether the command's words, `python` left out, stand in a file one after the other."""
    wanted = " ".join(words_of(re.sub(r"(^|\s)(\S*/)?python3? ", r"\1", command)))
    return f" {wanted} " in f" {' '.join(words_of(text))} "
