"""`python export.py` as a process."""

import json
import os
import subprocess
import sys
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
def test_settings_that_ask_for_nothing_or_the_impossible_are_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(ExportSettings, flags)


def test_a_run_is_merged_and_converted_by_one_command(tiny_run, tmp_path):
    flags = ["--run", str(tiny_run), "--merge", "--gguf", "f16,q4_k_m", "--num_prompts", "3", "--max_new_tokens", "4"]
    done = subprocess.run(
        [sys.executable, "export.py", *flags, "--json", "--output_dir", str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["run"], list(result["gguf"])) == ("run", ["f16", "q4_k_m"])
    assert "top-1 agreement" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "gguf", "merged"]
