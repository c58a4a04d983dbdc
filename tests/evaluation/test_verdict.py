import pytest

from sft.evaluation.compare import judge


def _figure(finding: str, base: float, tuned: float, num_rows: int = 1200, num_groups: int | None = None) -> dict:
    groups = num_rows if num_groups is None else num_groups
    return {"finding": finding, "base": base, "tuned": tuned, "num_rows": num_rows, "num_groups": groups}


BETTER, WORSE, UNCLEAR = _figure("better", 0.5, 0.9), _figure("worse", 1.0, 1.25), _figure("unclear", 0.25, 0.25)
FEW, SAME_TEXTS = _figure("too_few", 0.313, 1.0, 16), _figure("too_few", 0.0, 0.5, 40, 12)


@pytest.mark.parametrize(
    ("metrics", "outcome", "english", "chinese"),
    [
        (
            {"accuracy": BETTER},
            "helped",
            "Tuning helped: accuracy 0.500 -> 0.900; nothing got worse (1,200 rows).",
            "微调有效：准确率 0.500 -> 0.900；没有变差的指标（1,200 条）。",
        ),
        (
            {"accuracy": BETTER, "ner f1": UNCLEAR},
            "helped",
            "Tuning helped: accuracy 0.500 -> 0.900; no clear difference in ner f1 0.250 -> 0.250 (1,200 rows).",
            "微调有效：准确率 0.500 -> 0.900；ner f1 0.250 -> 0.250 没有明显差别（1,200 条）。",
        ),
        (
            {"eval_loss": WORSE},
            "hurt",
            "Tuning hurt: eval_loss 1.000 -> 1.250 (1,200 rows).",
            "微调有害：评测损失 1.000 -> 1.250（1,200 条）。",
        ),
        (
            {"accuracy": BETTER, "eval_loss": WORSE},
            "mixed",
            "Tuning helped in part: better accuracy 0.500 -> 0.900; worse eval_loss 1.000 -> 1.250 (1,200 rows).",
            "微调部分有效：变好 准确率 0.500 -> 0.900；变差 评测损失 1.000 -> 1.250（1,200 条）。",
        ),
        (
            {"ner f1": UNCLEAR},
            "unclear",
            "No clear difference between base and tuned: ner f1 0.250 -> 0.250 (1,200 rows).",
            "微调前后没有明显差别：ner f1 0.250 -> 0.250（1,200 条）。",
        ),
        (
            {"eval_loss": BETTER, "accuracy": UNCLEAR},
            "loss_only",
            "The reference answers became likelier (eval_loss 0.500 -> 0.900), but what the model writes did not get "
            "clearly better: no clear difference in accuracy 0.250 -> 0.250 (1,200 rows).",
            "参考答案的概率提高了（评测损失 0.500 -> 0.900），但模型写出的答案没有明显变好：准确率 0.250 -> 0.250 "
            "没有明显差别（1,200 条）。",
        ),
        (
            {"eval_loss": BETTER},
            "loss_only",
            "The reference answers became likelier (eval_loss 0.500 -> 0.900); whether what the model writes got "
            "better was not measured (--rouge measures text) (1,200 rows).",
            "参考答案的概率提高了（评测损失 0.500 -> 0.900）；模型写出的答案是否变好没有测量（文本可用 --rouge 测量）"
            "（1,200 条）。",
        ),
    ],
)
def test_the_verdict_says_in_words_what_the_findings_come_to(metrics, outcome, english, chinese):
    assert judge(metrics, 1200) == (outcome, {"en": english, "zh": chinese})


@pytest.mark.parametrize(
    ("metrics", "outcome", "english", "chinese"),
    [
        (
            {"accuracy": FEW, "ner f1": SAME_TEXTS},
            "too_few",
            "Too few rows to tell base and tuned apart: accuracy 0.313 -> 1.000 (16 rows), ner f1 0.000 -> 0.500 (40 "
            "rows, 12 of them distinct). Score 30 or more per task (train.py --eval_ratio, or --data with other rows).",
            "数据太少，无法判断微调前后的差别：准确率 0.313 -> 1.000 (16 条)，ner f1 0.000 -> 0.500 (40 条，12 条互不"
            "相同)。每个任务请至少评测 30 条（train.py --eval_ratio，或用 --data 给出其他数据）。",
        ),
        (
            {"eval_loss": BETTER, "accuracy": FEW},
            "loss_only",
            "The reference answers became likelier (eval_loss 0.500 -> 0.900); too few rows to tell: accuracy 0.313 -> "
            "1.000 (16 rows) (1,200 rows).",
            "参考答案的概率提高了（评测损失 0.500 -> 0.900）；"
            "数据太少，无法判断：准确率 0.313 -> 1.000 (16 条)（1,200 条）。",
        ),
        (
            {"accuracy": BETTER, "rougeL": FEW},
            "helped",
            "Tuning helped: accuracy 0.500 -> 0.900; too few rows to tell: rougeL 0.313 -> 1.000 (16 rows) "
            "(1,200 rows).",
            "微调有效：准确率 0.500 -> 0.900；数据太少，无法判断：rougeL 0.313 -> 1.000 (16 条)（1,200 条）。",
        ),
        (
            {"accuracy": UNCLEAR, "rougeL": FEW},
            "unclear",
            "No clear difference between base and tuned: accuracy 0.250 -> 0.250; too few rows to tell: rougeL 0.313 "
            "-> 1.000 (16 rows) (1,200 rows).",
            "微调前后没有明显差别：准确率 0.250 -> 0.250；"
            "数据太少，无法判断：rougeL 0.313 -> 1.000 (16 条)（1,200 条）。",
        ),
    ],
)
def test_of_too_few_rows_nothing_else_is_said_however_large_the_difference(metrics, outcome, english, chinese):
    assert judge(metrics, 1200) == (outcome, {"en": english, "zh": chinese})
    assert "no clear difference in accuracy 0.313" not in english


def test_rouge_is_proposed_only_where_nothing_but_the_loss_was_measured():
    proposing = [
        metrics
        for metrics in (
            {"eval_loss": BETTER},
            {"eval_loss": BETTER, "accuracy": UNCLEAR},
            {"eval_loss": BETTER, "f1": FEW},
        )
        if "--rouge" in judge(metrics, 100)[1]["en"]
    ]
    assert proposing == [{"eval_loss": BETTER}]


@pytest.mark.parametrize(
    ("metrics", "english"),
    [
        ({"accuracy": BETTER}, "new is better than old: accuracy 0.500 -> 0.900; nothing got worse (100 rows)."),
        ({"accuracy": WORSE}, "new is worse than old: accuracy 1.000 -> 1.250 (100 rows)."),
        ({"accuracy": UNCLEAR}, "No clear difference between old and new: accuracy 0.250 -> 0.250 (100 rows)."),
    ],
)
def test_two_runs_are_called_by_their_names(metrics, english):
    assert judge(metrics, 100, ("new", "old"))[1]["en"] == english
