"""--baseline: another run, another model, with tokenizers of their own."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from sft.console import to_json
from sft.errors import ConfigError, ModelError, RunError
from sft.evaluation import evaluate_run
from sft.evaluation.measuring import find_baseline
from sft.models.loading import load_run
from tests.evaluation.conftest import LIMITS, settings_of
from tests.tiny import make_tiny_model

SOME = ("--num_samples", 6, *LIMITS)


def test_the_base_is_compared_by_default_and_the_comparison_can_be_turned_off(run):
    assert find_baseline(run, settings_of()).kind == "base"
    assert find_baseline(run, settings_of("--no-baseline")) is None
    assert find_baseline(run, settings_of("--no_baseline")) is None


def test_an_impossible_baseline_is_refused_before_anything_is_measured(run):
    with pytest.raises(ConfigError, match="is the run itself; name another run or a model"):
        find_baseline(run, settings_of("--baseline", run.path))
    with pytest.raises(ModelError, match="no such folder"):
        find_baseline(run, settings_of("--baseline", "./nowhere"))


def test_an_unfinished_run_is_no_baseline(run, tmp_path):
    unfinished = replace(run, path=tmp_path, status="training")
    unfinished.save()
    with pytest.raises(RunError, match="this run has status 'training'"):
        find_baseline(run, settings_of("--baseline", tmp_path))


def test_another_run_is_measured_on_the_same_rows_and_named_in_the_verdict(run, tiny_run, evaluation, mixed_file):
    found = evaluate_run(run, settings_of("--data", mixed_file, "--baseline", tiny_run, *SOME))
    assert found.metrics["run"]["baseline"] == {"kind": "run", "name": tiny_run.name}
    whole = {row["id"]: row for row in evaluation.predictions}
    assert [row["prediction"] for row in found.predictions] == [
        whole[row["id"]]["prediction"] for row in found.predictions
    ]
    alone = evaluate_run(replace(run, path=tiny_run, adapter=_adapter_of(tiny_run), files=None), _alone(mixed_file))
    assert [row["base_prediction"] for row in found.predictions] == [row["prediction"] for row in alone.predictions]
    assert found.metrics["base"]["teacher_forcing"]["eval_loss"] == pytest.approx(
        alone.metrics["teacher_forcing"]["eval_loss"], abs=1e-6
    )
    assert "eval_loss" in found.metrics["comparison"]["metrics"]
    assert "Tuning" not in found.metrics["comparison"]["verdict"]


def _alone(rows: Path):
    return settings_of("--data", rows, "--no-baseline", *SOME)


def _adapter_of(run_dir: Path) -> str:
    from sft.runs.run import open_run

    return open_run(run_dir).adapter


def test_the_run_compared_with_its_own_base_model_by_name_is_the_default_comparison(run, mixed_file):
    by_name = evaluate_run(run, settings_of("--data", mixed_file, "--baseline", run.base["name"], *SOME))
    default = evaluate_run(run, settings_of("--data", mixed_file, *SOME))
    assert by_name.metrics["run"]["baseline"]["kind"] == "model"
    for one, other in zip(by_name.predictions, default.predictions, strict=True):
        assert one == {
            **other,
            "base_nll": pytest.approx(other["base_nll"], abs=1e-4),
            "nll": pytest.approx(other["nll"]),
        }


def number_bytes_backwards(tokenizer_file: Path) -> None:
    """Let the tokens of single bytes have each other's ids: what they spell together stays the same."""
    content = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    singles = [token for token in vocabulary if len(token) == 1]
    vocabulary |= dict(zip(singles, [vocabulary[token] for token in reversed(singles)], strict=True))
    tokenizer_file.write_text(json.dumps(content), encoding="utf-8")


def test_across_tokenizers_bits_per_byte_replace_the_loss_per_token(run, mixed_file, tmp_path):
    other = make_tiny_model(tmp_path / "other", seed=1, texts=["An adapter. 正面负面 hello 很好"] * 9)
    number_bytes_backwards(other / "tokenizer.json")  # the ids of one tokenizer are something else to the other
    found = evaluate_run(run, settings_of("--data", mixed_file, "--baseline", other, *LIMITS))
    tuned, base = found.metrics["teacher_forcing"], found.metrics["base"]["teacher_forcing"]
    assert base["supervised_tokens"] < tuned["supervised_tokens"]
    figures = found.metrics["comparison"]["metrics"]
    assert "eval_loss" not in figures
    assert figures["bits per byte"]["tuned"] == pytest.approx(tuned["bits_per_byte"])
    assert figures["bits per byte"]["base"] == pytest.approx(base["bits_per_byte"])
    num_bytes = tuned["eval_loss"] * tuned["supervised_tokens"] / math.log(2) / tuned["bits_per_byte"]
    assert base["bits_per_byte"] == pytest.approx(
        base["eval_loss"] * base["supervised_tokens"] / math.log(2) / num_bytes
    )
    assert json.loads(to_json(found.metrics)) == found.metrics


def test_two_models_are_never_in_memory_at_once(run, tiny_run, mixed_file, monkeypatch):
    import sft.evaluation.measuring as measuring

    loaded = load_run(run)
    monkeypatch.setattr("sft.evaluation.flow.load_run", lambda *_, **__: loaded)
    real = measuring.load_baseline

    def load(*arguments):
        assert not hasattr(loaded, "model")
        return real(*arguments)

    monkeypatch.setattr(measuring, "load_baseline", load)
    evaluate_run(run, settings_of("--data", mixed_file, "--baseline", tiny_run, *SOME))
