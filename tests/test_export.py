"""`python export.py`: its settings, and one command from a run to files. tests/export has the parts."""

import json
import runpy
from pathlib import Path

import pytest

from sft.config.export import ExportSettings
from sft.config.layers import load_settings
from sft.errors import ConfigError

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], r"nothing to export: give --merge, --gguf q8_0 or --push owner/name"),
        (["--merge", "--modelfile"], r"--modelfile describes a GGUF file: give --gguf q8_0 too"),
        (["--merge", "--dry_run"], r"--dry_run lists what --push would send"),
        (["--gguf", "q3_k"], r"gguf .*'q3_k' should be 'f16', 'q8_0' or 'q4_k_m'"),
        (["--push", "reviews"], r"push .*'reviews'"),
        (["--push", "a/b/c"], r"push .*'a/b/c'"),
    ],
)
def test_empty_or_impossible_settings_are_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(ExportSettings, flags)


def test_a_run_is_merged_and_converted_by_one_command(tiny_run, tmp_path, capsys):
    flags = ["--run", str(tiny_run), "--merge", "--gguf", "f16,q4_k_m", "--num_prompts", "3", "--max_new_tokens", "4"]
    runpy.run_path(str(ROOT / "export.py"))["main"]([*flags, "--json", "--output_dir", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert (result["run"], list(result["gguf"])) == ("run", ["f16", "q4_k_m"])
    assert "top-1 agreement" in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "gguf", "merged"]
    named = err.splitlines()[-1].removeprefix("next: llama-server -m ")
    assert Path(named).resolve() == (tmp_path / "out" / "gguf" / "run-f16.gguf").resolve()
    assert Path(named).is_file()


def test_a_merge_ends_with_its_verdict_and_the_command_that_tries_it(tiny_run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--run", str(tiny_run), "--merge", "--num_prompts", "2", "--max_new_tokens", "2", "--output_dir", "out"]
    runpy.run_path(str(ROOT / "export.py"))["main"](flags)
    out, err = capsys.readouterr()
    assert out == (
        "merged weights are in out/merged; compared with the run, within the limits: safe to use in its place.\n"
    )
    assert err.splitlines()[-1] == "next: python chat.py --model out/merged"


def test_the_verdict_excepts_prompts_that_the_exported_template_writes_otherwise(tmp_path):
    describe = runpy.run_path(str(ROOT / "export.py"))["describe_result"]
    settings = load_settings(ExportSettings, ["--merge"])
    line = describe({"merged": {"same_prompts": 2, "compared_prompts": 4}}, settings, tmp_path)

    assert "safe to use in its place, but not for 2 of 4 prompts" in line
    assert " but " not in describe({"merged": {"same_prompts": 4, "compared_prompts": 4}}, settings, tmp_path)
