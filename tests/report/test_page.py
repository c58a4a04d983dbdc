"""The page, from an evaluation made up by hand; looked at in a browser where there is one."""

import re

import pytest

from sft.report import render_report
from sft.report.words import ZH
from tests.report.conftest import find_browser, measure_page


def test_text_of_models_and_files_cannot_become_markup(evaluation):
    evaluation.predictions[0]["prediction"] = "<script>alert(1)</script>\x1b[31m"
    evaluation.metrics["comparison"]["verdict"] = "Tuning \x1b[2Jhelped <b>"
    page = render_report(evaluation)
    assert "<script" not in page
    assert "Tuning ␛[2Jhelped &lt;b&gt;" in page
    assert re.sub("</?ins>|</?del>", "", page).count("&lt;script&gt;alert(1)&lt;/script&gt;␛[31m") == 1


def test_braces_in_texts_do_not_disturb_the_page(evaluation):
    evaluation.predictions[0]["reference"] = '{"entity_text": "{title}"}'
    assert "{&quot;entity_text&quot;: &quot;{title}&quot;}" in render_report(evaluation)


def test_the_verdict_comes_before_every_table_and_picture(evaluation):
    page = render_report(evaluation)
    assert page.index("Tuning helped.") < min(page.index("<table"), page.index("<svg"))


def test_every_label_stands_in_both_languages_and_one_is_chosen_without_a_script(full_evaluation):
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
        "Rows that got worse||变差的行| (20)",
        "Rows that got better||变好的行| (10)",
        "The worst rows||最差的行| (20)",
        "Rows at random||随机抽取的行| (20)",
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
    assert "Compared with earlier." in page
    assert ">base<" not in page.partition("<details")[0]


def test_the_page_refers_to_nothing_outside_and_holds_no_width_that_a_phone_has_not(full_evaluation):
    page = render_report(full_evaluation)
    markup = re.sub(r"<(dd|td)\b.*?</\1>", "", page, flags=re.DOTALL)  # texts of rows may name addresses
    assert [mark for mark in ("http", "src=", "href=", "@import", "url(", "<script", "<link") if mark in markup] == []
    assert [
        width for width in re.findall(r"(?<!max-)width: ?(\d+)px", page.partition("</style>")[0]) if int(width) > 340
    ] == ["641"]
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "prefers-color-scheme: dark" in page


@pytest.mark.skipif(find_browser() is None, reason="no Chromium here; the test above reads the page instead")
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser_nothing_is_cut_off_at_390_and_1400_pixels_and_nothing_is_fetched(full_evaluation, tmp_path, dark):
    phone, desk = measure_page(render_report(full_evaluation, "zh" if dark else "en"), tmp_path, dark=dark)
    for found in (phone, desk):
        assert (found["page"], found["cut"], found["scrolling"], found["requests"]) == (found["width"], [], [], 0)
        assert (found["dark"], found["shown"]) == (dark, "zh" if dark else "en")
        red, green, blue = map(int, re.findall(r"\d+", found["ink"])[:3])
        assert (min(red, green, blue) > 200) if dark else (max(red, green, blue) < 60)
