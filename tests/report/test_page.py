"""The page, from an evaluation made up by hand; looked at in a browser where there is one."""

import re

import pytest

from sft.report import render_report
from sft.report.page import make_cards
from sft.report.words import ZH
from tests.report.conftest import find_browser, make_prediction, measure_page


def test_text_of_models_and_files_cannot_become_markup(evaluation):
    evaluation.predictions[0]["prediction"] = "<script>alert(1)</script>\x1b[31m"
    evaluation.metrics["comparison"]["verdict"] = "Tuning \x1b[2Jhelped <b>"
    page = render_report(evaluation)
    assert "<script" not in page
    assert "Tuning ␛[2Jhelped &lt;b&gt;" in page
    assert re.sub("</?ins>|</?del>", "", page).count("&lt;script&gt;alert(1)&lt;/script&gt;␛[31m") == 1


def test_braces_in_texts_do_not_disturb_the_page(evaluation):
    evaluation.predictions[0]["reference"] = '{"entity_text": "{title}"}'
    assert "{&#34;entity_text&#34;: &#34;{title}&#34;}" in render_report(evaluation)


def test_the_verdict_comes_before_every_table_and_picture(evaluation):
    page = render_report(evaluation)
    assert page.index("Tuning helped.") < min(page.index("<table"), page.index("<svg"))


def test_every_label_is_in_both_languages_and_one_is_chosen_without_a_script(full_evaluation):
    page = render_report(full_evaluation, "zh")
    english = re.findall(r'<span class=en lang="en">(.*?)</span><span class=zh lang="zh">(.*?)</span>', page)
    assert len(english) > 50
    assert [pair for pair in english if not pair[1] or pair[0] == pair[1]] == []
    headings = re.findall(r"<h[23]>(.*?)</h[23]>", page) + re.findall(r"<th>(.*?)</th>", page)
    untranslated = {text for text in headings if "class=zh" not in text and re.search("[a-z]{4}", text)}
    assert untranslated <= {"reviews", "sentiment"}
    assert '<input type="radio" name="language" id="zh" checked>' in page
    assert '<html lang="zh">' in page


def test_the_chinese_words_name_what_their_english_ones_do():
    assert [english for english, chinese in ZH.items() if not chinese.strip()] == []


def test_rows_that_got_worse_or_better_are_listed_and_the_worst_and_some_at_random(full_evaluation):
    page = render_report(full_evaluation)
    summaries = re.findall(r"<summary>.*?</summary>", page)
    assert [re.sub("<.*?>", "|", text).strip("|") for text in summaries][-4:] == [
        "Rows that got worse||变差的数据| (20)",
        "Rows that got better||变好的数据| (10)",
        "The worst rows||最差的数据| (20)",
        "Rows at random||随机抽取的数据| (20)",
    ]
    assert page.count("<article>") == 70


def test_without_a_baseline_there_is_nothing_about_one(evaluation):
    for name in ("base", "comparison"):
        del evaluation.metrics[name]
    evaluation.metrics["run"]["baseline"] = None
    for row in evaluation.predictions:
        for name in ("base_prediction", "base_nll", "base_finished", "changes"):
            del row[name]
    page = render_report(evaluation)
    assert "Measured without a baseline (--no-baseline)." in page
    assert [word for word in ("Rows that got worse", "微调前", ">None<") if word in page] == []


def test_another_run_is_called_by_its_name_and_not_base(evaluation):
    evaluation.metrics["run"]["baseline"] = {"kind": "run", "name": "earlier"}
    page = render_report(evaluation)
    assert re.search(r"compared with</span>.*?<dd>earlier</dd>", page)
    assert ">base<" not in page.partition("<details")[0]


def test_the_page_refers_to_nothing_outside_and_holds_no_width_that_a_phone_has_not(full_evaluation):
    page = render_report(full_evaluation)
    markup = re.sub(r"<(dd|td)\b.*?</\1>", "", page, flags=re.DOTALL)  # texts of rows may name addresses
    assert [mark for mark in ("http", "src=", "href=", "@import", "url(", "<script", "<link") if mark in markup] == []
    assert [
        width for width in re.findall(r"(?<!max-)width: ?(\d+)px", page.partition("</style>")[0]) if int(width) > 340
    ] == ["1100", "641"]
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "prefers-color-scheme: dark" in page


def text_of(part: str) -> str:
    """What a reader of the English page sees of a part."""
    part = re.sub(r'<span class=zh lang="zh">.*?</span>', "", part, flags=re.DOTALL)
    return " ".join(re.sub(r"<.*?>", " ", part, flags=re.DOTALL).split())


def test_the_first_screen_is_the_outcome_a_card_for_each_figure_and_the_run(evaluation):
    evaluation.metrics["comparison"] |= {
        "verdict": "Tuning helped: accuracy 0.5 -> 0.9 (4 rows).",
        "verdict_zh": "微调有效：准确率 0.5 -> 0.9（4 条）。",
    }
    page = render_report(evaluation)
    assert text_of(re.search("<h1.*?</h1>", page)[0]) == "Tuning helped"
    (card,) = re.findall(r'<section class="card.*?</section>', page, re.DOTALL)
    assert text_of(card) == ("sentiment accuracy better 0.500 → 0.900 +0.400 [+0.300, +0.500] 60 rows better, 2 worse")
    run = text_of(re.search(r"<section class=facts>.*?</section>", page, re.DOTALL)[0])
    assert run == (
        "The run model HuggingFaceTB/SmolLM2-135M-Instruct method LoRA r 16, alpha 32 training data 1,092 rows of "
        "mixed length of training 1.2 epochs, 328 steps learning rate 0.002 rows per step 4 hardware AMD EPYC, "
        "2 threads training time 3.0 minutes peak memory 2.4 GB scored on 4 rows of mixed, test split "
        "shortened rows 25.0% too long, left out 1"
    )
    assert page.index("class=facts") < page.index("<table")


def test_a_bar_shows_the_interval_with_better_to_the_right(evaluation):
    figure = evaluation.metrics["comparison"]["metrics"]["sentiment accuracy"]
    (more,) = make_cards(evaluation.metrics)
    figure |= {"difference": -0.4, "low": -0.5, "high": -0.3, "higher_is_better": False}
    (less,) = make_cards(evaluation.metrics)
    assert more.span == less.span
    assert (round(more.span.left, 3), round(more.span.width, 3), round(more.span.dot, 3)) == (77.6, 18.4, 86.8)
    figure |= {"low": None, "high": None, "finding": "too_few"}
    assert (make_cards(evaluation.metrics)[0].span, make_cards(evaluation.metrics)[0].word) == (None, "too few rows")


def test_a_yardstick_is_in_the_card_of_its_figure(evaluation):
    one = {"figure": "sentiment accuracy", "value": 0.95, "low": 0.9, "high": 1.0}
    one["comparison"] = evaluation.metrics["comparison"]["metrics"]["sentiment accuracy"] | {"finding": "worse"}
    evaluation.metrics["yardsticks"] = {
        "verdict": "Tuned does not beat a bag of words.", "verdict_zh": "没有超过词袋模型。",
        "by_task": {"sentiment": {"bag_of_words": one}},
    }  # fmt: skip
    page = render_report(evaluation)
    assert make_cards(evaluation.metrics)[0].yardsticks == [("bag of words", 0.95, "worse")]
    assert page.index("Tuned does not beat a bag of words.") < page.index("class=cards")


def test_base_is_beside_tuned_in_matrices_and_figures_and_what_is_worse_is_marked(evaluation):
    per_class = evaluation.metrics["classification"]["by_task"]["sentiment"]["label_scoring"]["per_class"]
    evaluation.metrics["base"]["classification"]["by_task"]["sentiment"]["label_scoring"]["per_class"] = {
        name: {**one, "recall": 0.9} for name, one in per_class.items()
    }
    page = render_report(evaluation)
    assert page.count("class=confusion") == 4  # label scoring and generated, both sides
    table = re.search(r"<th>[^/]{0,60}class</span>.*?</table>", page, re.DOTALL)[0]
    assert re.findall(r'class="number worse">.*?<span>([\d.]+)', table) == ["0.8000", "0.8000"]


def test_of_a_conversation_the_page_shows_every_turn(evaluation):
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<Hello>"}]
    evaluation.predictions[:] = [make_prediction("c", task="chat", history=history, instruction="Why?")]
    article = re.search("<article>.*?</article>", render_report(evaluation), re.DOTALL)[0]
    assert "user Hi assistant &lt;Hello&gt; question Why? reference" in text_of(article)


def test_validations_beside_the_loss_have_a_picture_of_their_own(evaluation):
    assert render_report(evaluation).count("Validation while training") == 0
    evaluation.training_log.extend({"step": step, "eval_loss": 1.0, "eval_accuracy": 0.5} for step in (60, 70))
    page = render_report(evaluation)
    assert text_of(re.search("<figcaption><b>.{0,60}Validation while.*?</figcaption>", page, re.DOTALL)[0]) == (
        "Validation while training accuracy"
    )


@pytest.mark.skipif(find_browser() is None, reason="no Chromium here; the test above reads the page instead")
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser_nothing_is_cut_off_at_390_and_1400_pixels_and_nothing_is_fetched(full_evaluation, tmp_path, dark):
    phone, desk = measure_page(render_report(full_evaluation, "zh" if dark else "en"), tmp_path, dark=dark)
    for found in (phone, desk):
        assert (found["page"], found["cut"], found["scrolling"], found["requests"]) == (found["width"], [], [], 0)
        assert (found["dark"], found["shown"]) == (dark, "zh" if dark else "en")
        red, green, blue = map(int, re.findall(r"\d+", found["ink"])[:3])
        assert (min(red, green, blue) > 200) if dark else (max(red, green, blue) < 60)
