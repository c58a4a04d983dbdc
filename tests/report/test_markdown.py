import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft.report import render_markdown
from tests.report.conftest import make_prediction


def test_the_summary_has_verdict_figures_leaks_and_broken_rows(full_evaluation):
    text = render_markdown(full_evaluation)
    assert text.startswith("## demo\n\n🟢 **Tuning helped&#46;**\n\n| metric | base | tuned |")
    assert "| sentiment accuracy | 0.5000 | 0.9000 | &#43;0&#46;4000 |" in text
    assert "1 stand in the 1,092 training rows and 1 nearly so (50.0%)." in text
    assert "<summary>Rows that got worse (5 / 20)</summary>" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count(" | ") + 1 for line in rows} <= {3, 5, 9}


def test_the_summary_can_be_in_chinese(evaluation):
    text = render_markdown(evaluation, "zh")
    assert "🟢 **微调有效。**" in text
    assert "| 指标 | 微调前 | 微调后 | 差值 |" in text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.text(max_size=60))
def test_text_of_a_model_stays_text_in_its_cell(evaluation, answer):
    evaluation.predictions[:] = [make_prediction("x", prediction=answer, changes={"a": "broken"})]
    (line,) = [line for line in render_markdown(evaluation).splitlines() if line.startswith("| x |")]
    assert len(re.findall(r"(?<!\\)\|", line)) == 6
    cell = line.split("|")[5]
    assert not set(cell) & set("<>`*_[]!@\\~")
