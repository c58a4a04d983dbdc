import pytest

from sft.evaluation.compare import judge


def _figure(finding: str, base: float, tuned: float) -> dict:
    return {"finding": finding, "base": base, "tuned": tuned}


BETTER, WORSE, UNCLEAR = _figure("better", 0.5, 0.9), _figure("worse", 1.0, 1.25), _figure("unclear", 0.25, 0.25)


@pytest.mark.parametrize(
    ("metrics", "outcome", "verdict"),
    [
        ({"accuracy": BETTER}, "helped", "Tuning helped: accuracy 0.500 -> 0.900; nothing got worse (1,200 rows)."),
        (
            {"accuracy": BETTER, "ner f1": UNCLEAR},
            "helped",
            "Tuning helped: accuracy 0.500 -> 0.900; no clear difference in ner f1 0.250 -> 0.250 (1,200 rows).",
        ),
        ({"eval_loss": WORSE}, "hurt", "Tuning hurt: eval_loss 1.000 -> 1.250 (1,200 rows)."),
        (
            {"accuracy": BETTER, "eval_loss": WORSE},
            "mixed",
            "Tuning helped in part: better accuracy 0.500 -> 0.900; worse eval_loss 1.000 -> 1.250 (1,200 rows).",
        ),
        (
            {"ner f1": UNCLEAR},
            "unclear",
            "No clear difference between base and tuned: ner f1 0.250 -> 0.250 (1,200 rows).",
        ),
    ],
)
def test_the_verdict_says_in_words_what_the_findings_come_to(metrics, outcome, verdict):
    assert judge(metrics, 1200) == (outcome, verdict)
