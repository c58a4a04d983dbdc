import pytest

from sft.evaluation.verdict import judge


def _figure(finding: str, base: float, tuned: float) -> dict:
    return {"finding": finding, "base": base, "tuned": tuned}


BETTER, WORSE, UNCLEAR = _figure("better", 0.5, 0.9), _figure("worse", 1.0, 1.25), _figure("unclear", 0.25, 0.25)


@pytest.mark.parametrize(
    ("metrics", "outcome", "english", "chinese"),
    [
        (
            {"accuracy": BETTER},
            "helped",
            "Tuning helped: accuracy 0.500 -> 0.900; nothing got worse (1,200 rows).",
            "微调有效：准确率 0.500 -> 0.900；没有变差的指标（1,200 行）。",
        ),
        (
            {"accuracy": BETTER, "ner f1": UNCLEAR},
            "helped",
            "Tuning helped: accuracy 0.500 -> 0.900; no clear difference in ner f1 0.250 -> 0.250 (1,200 rows).",
            "微调有效：准确率 0.500 -> 0.900；ner f1 0.250 -> 0.250 没有明显差别（1,200 行）。",
        ),
        (
            {"eval_loss": WORSE},
            "hurt",
            "Tuning hurt: eval_loss 1.000 -> 1.250 (1,200 rows).",
            "微调有害：评测损失 1.000 -> 1.250（1,200 行）。",
        ),
        (
            {"accuracy": BETTER, "eval_loss": WORSE},
            "mixed",
            "Tuning helped in part: better accuracy 0.500 -> 0.900; worse eval_loss 1.000 -> 1.250 (1,200 rows).",
            "微调部分有效：变好 准确率 0.500 -> 0.900；变差 评测损失 1.000 -> 1.250（1,200 行）。",
        ),
        (
            {"ner f1": UNCLEAR},
            "unclear",
            "No clear difference between base and tuned: ner f1 0.250 -> 0.250 (1,200 rows).",
            "微调前后没有明显差别：ner f1 0.250 -> 0.250（1,200 行）。",
        ),
        (
            {"eval_loss": BETTER, "accuracy": UNCLEAR},
            "loss_only",
            "The reference answers became likelier (eval_loss 0.500 -> 0.900), but what the model writes did not get "
            "clearly better: no clear difference in accuracy 0.250 -> 0.250 (1,200 rows).",
            "参考答案的概率提高了（评测损失 0.500 -> 0.900），但模型写出的答案没有明显变好：准确率 0.250 -> 0.250 "
            "没有明显差别（1,200 行）。",
        ),
        (
            {"eval_loss": BETTER},
            "loss_only",
            "The reference answers became likelier (eval_loss 0.500 -> 0.900); whether what the model writes got "
            "better was not measured (--rouge measures text) (1,200 rows).",
            "参考答案的概率提高了（评测损失 0.500 -> 0.900）；模型写出的答案是否变好没有测量（文本可用 --rouge 测量）"
            "（1,200 行）。",
        ),
    ],
)
def test_the_verdict_says_in_words_what_the_findings_come_to(metrics, outcome, english, chinese):
    assert judge(metrics, 1200) == (outcome, {"en": english, "zh": chinese})


def test_a_verdict_on_few_rows_says_how_little_it_rests_on():
    outcome, verdict = judge({"accuracy": BETTER}, 9)
    assert outcome == "helped"
    assert verdict["en"].endswith("nothing got worse (9 rows). Fewer than 30 rows: a first sign, no proof.")
    assert verdict["zh"].endswith("（9 行）。不足 30 行：只能算初步迹象，不能算证明。")
    assert "first sign" not in judge({"accuracy": BETTER}, 30)[1]["en"]


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
