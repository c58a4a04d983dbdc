"""What READMEs and first pages show is known: a table says what runs each command, results.md has each figure."""

from pathlib import Path

import pytest

from sft.config.layers import load_settings
from tests.commands import ROOT, SCRIPTS, settings_class_of
from tests.readme import (
    is_run_in,
    measured_figures,
    read_commands,
    read_figures,
    script_calls,
    without_comment,
    words_of,
)

READMES = ("README.md", "README_zh.md")
FIRST_PAGES = (
    *READMES,
    "CONTRIBUTING.md",
    *(f"docs/{name}.md" for name in ("commands", "own-data", "gpu", "trust", "demo")),
)
CHINESE_PAGES = ("README_zh.md", "docs/zh/gpu.md")
MEASURED_PAGES = ("README.md", "docs/gpu.md", "docs/trust.md")

# Command -> the file that runs it: the Makefile (`make demo`), CI, or a test. A test that runs the same with other
# values (a smaller file, a temporary folder) is named with the words that stand in it.
RUN_BY: dict[str, str | tuple[str, str]] = {
    "make demo": ("tests/test_setup.py", "run_make clone -n demo"),  # its commands; a person runs it whole
    "make test": ".ci/run",
    "make check": ".ci/run",
    "python build_dataset.py --preset demo": "Makefile",
    "python build_dataset.py --preset demo --dry_run 1000": ("tests/test_build_dataset.py", "--dry_run 400"),
    "python build_dataset.py --preset small --name small --total 200": (
        "tests/data/test_presets_from_hub.py",
        "--preset small --name small --total 40",
    ),
    "python extract_mongo.py -u ada --auth-database texts --list-labels": (
        "tests/test_extract_mongo.py",
        "--database texts --list-labels",
    ),
    'python extract_mongo.py -u ada --auth-database texts -l "正常:15000,暴恐:6000" -f text_cn,n_labels --random '
    "--seed 123 -o out.xlsx": ("tests/test_extract_mongo.py", "-f text_cn,n_labels --random --seed 123 -o out.xlsx"),
    "python inspect_data.py --config recipes/small-data.yaml --data reviews.csv --labels bad,good -n 1": (
        "tests/test_readme_commands.py"
    ),
    "python train.py --config recipes/small-data.yaml --data reviews.csv --labels bad,good": (
        "tests/test_readme_commands.py"
    ),
    "python evaluate.py": "tests/test_readme_commands.py",
    "python train.py --config recipes/demo.yaml": "Makefile",
    "python evaluate.py --rouge": "Makefile",
    "python evaluate.py --baseline outputs/earlier": "tests/test_readme_commands.py",
    """python evaluate.py --fail_if 'comparison.outcome == "hurt"'""": "tests/test_readme_commands.py",
    "python evaluate.py --rouge --calibrate --robustness": "tests/test_readme_commands.py",
    "python train.py --config recipes/qwen2.5-coder-1.5b-freeze.yaml --dry_run": "tests/test_readme_commands.py",
    "python build_dataset.py --preset reviews --name reviews": "tests/test_readme_commands.py",
    "python train.py --config recipes/demo-head.yaml": "tests/test_readme_commands.py",
    'python inference.py --text "房间很干净"': "tests/test_readme_commands.py",
    "python inference.py --file examples/my_dataset.json --output answers.jsonl": "tests/test_readme_commands.py",
    "python inference.py --demo": "tests/test_readme_commands.py",
    "python export.py --merge": "tests/test_readme_commands.py",
    "python export.py --gguf q8_0 --modelfile": "tests/test_readme_commands.py",
    "python export.py --push you/reviews --dry_run": "tests/test_readme_commands.py",
    "python serve.py --port 8000": ("tests/test_serve.py", "--port"),
    "python inspect_data.py --config recipes/demo.yaml -n 1": "tests/test_readme_commands.py",
    "python train.py --config recipes/demo.yaml --dry_run": "tests/test_readme_commands.py",
    'python inference.py --text "What is LoRA?"': "tests/test_readme_commands.py",
    'python inference.py --task sentiment --text "房间很干净" --json': "tests/test_readme_commands.py",
    "python chat.py": "tests/test_readme_commands.py",
    "python train.py --config recipes/demo.yaml --data examples/my_dataset.json": "tests/test_readme_commands.py",
    "cp recipes/data/demo.yaml my_mixture.yaml": "tests/test_readme_commands.py",
    "python build_dataset.py --preset my_mixture.yaml --name mine --on_bad_row quarantine": (
        "tests/test_readme_commands.py"
    ),
    "python train.py --config recipes/demo.yaml --data data/mine": "tests/test_readme_commands.py",
    "python train.py --config recipes/qwen2.5-7b-instruct-qlora.yaml --dry_run": "tests/test_readme_commands.py",
    "python train.py --config recipes/qwen2.5-7b-instruct-qlora.yaml": "tests/test_readme_commands.py",
}


def shown_commands() -> dict[str, str]:
    """Every command of the READMEs and the first pages, with the page that shows it."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in FIRST_PAGES}
    return {command: name for name, text in texts.items() for command in read_commands(text)}


def find_unproven(command: str, table: dict[str, str | tuple[str, str]], root: Path = ROOT) -> str | None:
    """What is wrong with a command's place in the table, or None."""
    if command not in table:
        return f"{command}: no test runs it; add a test (or a line of CI) and name it in RUN_BY"
    place = table[command]
    file, words = place if isinstance(place, tuple) else (place, command)
    if not is_run_in(words, (root / file).read_text(encoding="utf-8")):
        return f"{command}: {file} does not run it"
    return None


def test_every_command_of_the_readmes_is_run_by_a_test_or_by_ci():
    assert [problem for command in shown_commands() if (problem := find_unproven(command, RUN_BY))] == []


def test_the_table_names_no_command_that_the_readmes_no_longer_show():
    assert [command for command in RUN_BY if command not in shown_commands()] == []


def test_both_readmes_show_the_same_commands():
    english, chinese = (read_commands((ROOT / name).read_text(encoding="utf-8")) for name in READMES)
    assert english == chinese


def test_every_flag_and_recipe_of_the_readmes_exists(monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in shown_commands():
        for script, *arguments in script_calls(command):
            if script in SCRIPTS and "--help" not in arguments:
                load_settings(settings_class_of(script), arguments)  # an unknown flag, value or recipe raises


def test_every_measured_figure_is_in_the_results_and_in_both_languages():
    known = read_figures((ROOT / "docs/results.md").read_text(encoding="utf-8"))
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in (*MEASURED_PAGES, *CHINESE_PAGES)}
    figures = {name: measured_figures(text) for name, text in texts.items()}
    assert [name for name, found in figures.items() if not found or found - known] == []
    for name, chinese in zip(MEASURED_PAGES, CHINESE_PAGES, strict=False):
        assert figures[name] == figures[chinese]
    assert {"16,563", "60 %", "7.8"} < figures["docs/gpu.md"]


def test_the_demo_that_its_page_shows_is_the_one_in_the_results():
    results = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    tables = results.partition("<!-- demo table begins -->")[2].partition("<!-- demo table ends -->")[0].split("\n\n")
    shown = (ROOT / "docs/demo.md").read_text(encoding="utf-8")
    assert [table for table in tables if table.strip("\n`").removeprefix("text\n") not in shown] == []


# The reader itself

README = """
```bash
make demo          # ten minutes
# only a comment
python train.py --data my.jsonl \\
    --max_steps 3
python inference.py --text "a # b"
```
```python
import this
```
   ```console
   $ make demo
   built
   $ printf 'hello\\nexit\\n' | python chat.py
   ```
"""


def test_commands_are_read_from_shell_blocks_without_comments_and_output():
    assert read_commands(README) == [
        "make demo",
        "python train.py --data my.jsonl --max_steps 3",
        'python inference.py --text "a # b"',
        r"printf 'hello\nexit\n' | python chat.py",
    ]


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("make  # x", "make"),
        ("# x", ""),
        ("", ""),
        ("curl https://example.org/#part", "curl https://example.org/#part"),
        ("python inference.py --text '什么是 LoRA？' # 中文", "python inference.py --text '什么是 LoRA？'"),
    ],
)
def test_a_comment_ends_a_command(line, command):
    assert without_comment(line) == command


@pytest.mark.parametrize(
    ("command", "calls"),
    [
        ("make demo", []),
        ("cd x && .venv/bin/python train.py --lora_r 8", [["train.py", "--lora_r", "8"]]),
        (r"printf 'hello\nexit\n' | python chat.py", [["chat.py"]]),
        ("SFT_SEED=1 python train.py > log.txt", [["train.py"]]),
        ('python inference.py --text "a | b; c"', [["inference.py", "--text", "a | b; c"]]),
        ("python evaluate.py; python chat.py", [["evaluate.py"], ["chat.py"]]),
    ],
)
def test_python_calls_are_found_in_pipes_and_lists(command, calls):
    assert list(script_calls(command)) == calls


def test_figures_are_numbers_dates_and_what_is_measured_in_not_parts_of_names():
    text = (
        "<!-- measured -->7B, 约16,563 token，60\n%: 7.8 GB (H100, 2026-11-26) `--r 3`, 0.14.<!-- measured ends --> 99"
    )
    assert measured_figures(text) == {"16,563", "60 %", "7.8", "2026-11-26", "0.14"}


def test_words_are_the_same_in_a_shell_line_and_in_a_list_of_arguments():
    assert words_of('run("train.py", ["--max_steps", "3"])') == words_of("run train.py --max_steps 3")


@pytest.mark.parametrize(
    ("command", "text", "runs"),
    [
        ("python train.py --max_steps 3", 'run_script("train.py", "--max_steps", "3")', True),
        ("python train.py --max_steps 3", "\t$(RUN) train.py --max_steps 3\n", True),
        ("make test", "make check\nmake test\n", True),
        ("python train.py --max_steps 3", 'run_script("train.py", "--max_steps", "30")', False),
        ("python train.py", 'run_script("my_train.py")', False),
        ("make test", "make test-all", False),
    ],
)
def test_a_command_counts_as_run_where_its_words_are_adjacent(command, text, runs):
    assert is_run_in(command, text) is runs


def test_an_unknown_command_and_one_whose_place_does_not_run_it_are_findings(tmp_path):
    (tmp_path / "ci").write_text("make check", encoding="utf-8")
    table: dict[str, str | tuple[str, str]] = {"make check": "ci", "make test": "ci", "make demo": ("ci", "make check")}
    assert [find_unproven(c, table, tmp_path) for c in ("make check", "make test", "make demo", "rm -r x")] == [
        None,
        "make test: ci does not run it",
        None,
        "rm -r x: no test runs it; add a test (or a line of CI) and name it in RUN_BY",
    ]
