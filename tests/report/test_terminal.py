from sft.report import render_table


def test_the_table_shows_base_tuned_and_difference_with_its_interval_and_then_the_verdict(evaluation):
    lines = render_table(evaluation.metrics).splitlines()
    assert lines[:3] == [
        "metric                base   tuned  difference  95 % interval       fixed  broken  finding",
        "------------------  ------  ------  ----------  ------------------  -----  ------  -------",
        "sentiment accuracy  0.5000  0.9000  +0.4000     [+0.3000, +0.5000]     60       2  better",
    ]
    assert lines[-3:] == [
        "None of these rows occurs in the 1,092 training rows, exactly or nearly.",
        "",
        "Tuning helped.",
    ]


def test_scores_without_rows_of_the_training_data_are_below_their_count(full_evaluation):
    text = render_table(full_evaluation.metrics)
    assert (
        "1 of these rows occur in the 1,092 training rows, and 1 nearly (50.0% in all).\n\n"
        "Without them, 2 rows:\nmetric                base   tuned" in text
    )


def test_a_finding_that_stayed_unclear_says_how_large_a_difference_had_to_be(evaluation):
    assert "unclear:" not in render_table(evaluation.metrics)
    evaluation.metrics["comparison"]["metrics"]["sentiment accuracy"]["finding"] = "unclear"
    assert "would be detected (80 % power): sentiment accuracy 0.11" in render_table(evaluation.metrics)
    evaluation.metrics["comparison"]["metrics"]["sentiment accuracy"]["smallest_detectable"] = None
    assert "would be detected" not in render_table(evaluation.metrics)  # so few rows show none of any size


def test_gains_calibration_and_robustness_have_tables_of_their_own(full_evaluation):
    lines = [" ".join(line.split()) for line in render_table(full_evaluation.metrics).splitlines()]
    for line in (
        "label scoring base tuned change relative",
        "accuracy 0.7500 0.7500 = 0.00 points = 0.0 %",
        "sentiment ECE, temperature 0.0500 0.0500",
        "synonyms 10 0.8000 0.6000 0.7500 0.3000",
        "negation 2 0.5000",
        "wer 0.4000 0.4000",
    ):
        assert line in lines


def test_another_run_has_a_column_that_is_not_called_base(evaluation):
    evaluation.metrics["run"]["baseline"] = {"kind": "run", "name": "earlier"}
    assert render_table(evaluation.metrics).split()[:4] == ["metric", "baseline", "this", "run"]


def test_without_a_baseline_each_figure_has_its_own_interval(full_evaluation):
    for name in ("base", "comparison", "without_overlaps"):
        del full_evaluation.metrics[name]
    lines = [" ".join(line.split()) for line in render_table(full_evaluation.metrics).splitlines()]
    assert "sentiment accuracy 0.7500 [0.6000, 0.8667]" in lines
    assert "sentiment ECE, 95 % interval [0.0200, 0.1400]" in lines
    assert "sentiment ECE expected by chance 0.0500" in lines


def test_text_cannot_steer_the_terminal(evaluation):
    evaluation.metrics["comparison"]["verdict"] = "Tuning \x1b[2Jhelped"
    assert "\x1b" not in render_table(evaluation.metrics)


def test_every_text_metric_comes_with_its_signature(full_evaluation):
    lines = render_table(full_evaluation.metrics).split("\n")
    start = lines.index("text metrics over 4 rows (instruct)")
    assert lines[start + 1].startswith("ROUGE rouge|")
    assert lines[start + 2 : start + 7] == [
        "BLEU tok:zh|version:2.6.0",
        "chrF nc:6",
        "exact match exact:equal after strip",
        "distinct distinct:corpus",
        "wer evaluate:0.4.6|wer",
    ]
