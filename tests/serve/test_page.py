"""The page at / in a real browser, and the headers it comes with."""

import base64
import hashlib
import re

import httpx
import pytest
import torch

from prompts.tasks import get_task
from sft.models.loading import load_run
from sft.runs.run import open_run
from sft.serve.page import PAGE
from tests.serve.browser import Browser, find_chromium
from tests.serve.conftest import KEY, run_server

DONE = "document.querySelectorAll('.writing').length === 0 && document.querySelectorAll('.turn').length === %d"
HOSTILE = "<img src=x onerror=\"document.title='stolen'\"></script><script>document.title='stolen'</script>"


@pytest.fixture(scope="module")
def served(tiny_run):
    """A run that chats and knows labels, its base beside it; 20 ms a token, so that a stream can be watched."""
    import time

    loaded, run = load_run(open_run(tiny_run)), open_run(tiny_run)
    torch.manual_seed(1)
    for name, weight in loaded.model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.5)
    run.data = {**run.data, "tasks": ["chat", "sentiment", "news", "ner"]}
    with run_server(loaded, run, with_base=True) as server:
        for batch in (server.service.engine._batch, server.service.engine._base_batch):
            batch.step = lambda step=batch.step: (time.sleep(0.02), step())
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if find_chromium() is None:
        pytest.skip("no Chromium is installed")
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def test_the_page_needs_no_key_and_its_policy_allows_its_own_script_and_style_alone(served):
    answer = httpx.get(f"{served.url}/")
    assert (answer.status_code, answer.text) == (200, PAGE.read_text(encoding="utf-8"))
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_needs_nothing_else_and_parses_no_text_as_markup():
    html = PAGE.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", html.replace('xmlns="http://www.w3.org/2000/svg"', ""))
    for way_in in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "DOMParser",
        " on",
        "style=",
    ):
        assert not re.search(rf"{re.escape(way_in)}\w+=\"" if way_in == " on" else re.escape(way_in), html), way_in


def test_both_languages_of_the_page_have_the_same_words():
    script = PAGE.read_text(encoding="utf-8")
    english, chinese = re.findall(r"^  (?:en|zh): \{(.*?)\](?: \},| \} \};)$", script, re.DOTALL | re.MULTILINE)
    names = [re.findall(r"(?:^|[,\n])\s*(\w+): [\"\[]", text) for text in (english, chinese)]
    assert names[0] == names[1]
    used = set(re.findall(r"data-text=\"(\w+)\"", script)) | set(re.findall(r"word\(\"(\w+)\"\)", script))
    assert used - set(names[0]) == set()


@pytest.mark.slow
def test_a_visitor_gives_the_key_and_gets_streamed_answers_of_both_models_side_by_side(served, browser):
    page, create = browser.open(f"{served.url}/"), served.client().chat.completions.create
    page.wait_for("document.querySelector('dialog').open")
    page.type("#key", "sk-wrong")
    page.wait_for("!document.querySelector('#key_error').hidden && document.querySelector('dialog').open")
    page.type("#key", KEY)
    page.wait_for("document.querySelector('#run').textContent === 'tiny'")
    assert page.run("[sessionStorage.getItem('key'), JSON.stringify(localStorage).includes('sk-')]") == [KEY, False]

    page.run(
        "window.seen = new Set(); new MutationObserver(() => { const said = document.querySelector('.said'); "
        "if (said) seen.add(said.textContent); }).observe(document.body, {subtree: true, childList: true}); 1"
    )
    page.type("#text", "hi")
    page.wait_for(DONE % 1)
    hi = [{"role": "user", "content": "hi"}]
    first = create(model="tiny", messages=hi).choices[0].message.content
    assert page.run("document.querySelector('.turn .said').textContent") == first
    assert page.run("[...seen].filter(text => text).length") > 2  # it came in pieces

    page.click("#sides label:nth-child(3)")
    page.type("#text", HOSTILE)
    page.wait_for(DONE % 2)
    more = {"role": "user", "content": HOSTILE}
    tuned = create(model="tiny", messages=[*hi, {"role": "assistant", "content": first}, more])
    base = create(model="tiny:base", messages=[more])  # which was not asked before
    shown = page.run("[...document.querySelectorAll('.turn:last-child .said')].map(node => node.textContent)")
    assert shown == [answer.choices[0].message.content for answer in (tuned, base)]
    assert shown[0] != shown[1]
    assert page.run("document.querySelector('.turn:last-child .asked').textContent") == HOSTILE
    assert page.run("document.querySelectorAll('#turns img, #turns script').length") == 0
    assert page.complaints == ["Failed to load resource: the server responded with a status of 401 (Unauthorized)"] * 2

    page.run("document.body.append(make('script', {text: 'document.title = \"stolen\"'}))")
    assert page.run("document.title") == "tiny · qwen-sft"
    assert any("Content Security Policy" in text for text in page.complaints)


def test_a_changed_temperature_and_system_prompt_are_sent_and_shown_as_code(served, browser, monkeypatch):
    page = browser.open(f"{served.url}/")
    page.wait_for("document.querySelector('dialog').open")
    page.type("#key", KEY)
    page.wait_for("model.id === 'tiny' && document.querySelector('#system').value === 'Be brief.'")
    page.set("#system", "Be loud.")
    page.set("#knobs input[type=range]", "0.9")
    page.set(".knob:nth-child(6) input", "7")
    page.type("#text", "hi")
    page.wait_for(DONE % 1)
    turns = [{"role": "system", "content": "Be loud."}, {"role": "user", "content": "hi"}]
    sent = {"temperature": 0.9, "seed": 7, "top_p": 1.0, "max_tokens": 16}
    expected = served.client().chat.completions.create(model="tiny", messages=turns, **sent).choices[0].message.content
    assert page.run("document.querySelector('.said').textContent") == expected
    code = page.run("document.querySelector('#code').textContent")
    assert [part for part in ('"Be loud."', "temperature=0.9,", "seed=7,") if part not in code] == []
    names = {}
    monkeypatch.setenv("QWEN_SFT_API_KEY", KEY)
    exec(code, names)
    assert names["answer"].choices[0].message.content


def test_a_label_task_shows_the_probability_of_every_label(served, browser):
    page = browser.open(f"{served.url}/", width=390, height=844, scheme="dark")
    page.wait_for("document.querySelector('dialog').open")
    page.type("#key", KEY)
    page.wait_for("model.id === 'tiny'")
    for name, labels in (("tiny:sentiment", get_task("sentiment").labels), ("tiny:news", ("Sports", "Economy"))):
        page.set("#model", name)
        page.click("#sides label:nth-child(3)")
        page.type("#text", "房间很干净")
        page.wait_for(DONE % 1)
        for index, model in enumerate((name, name.replace("tiny:", "tiny:base:"))):
            message = served.client().chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": "房间很干净"}],
                extra_body={"category": ["Sports", "Economy"]} if "news" in name else {},
            )
            found = message.choices[0].message
            card = f"document.querySelectorAll('.answer')[{index}]"
            assert page.run(f"{card}.querySelector('.said').textContent") == found.content
            shown = page.run(
                f"[...{card}.querySelectorAll('[role=meter]')].map(bar => [bar.ariaLabel, Number(bar.ariaValueNow)])"
            )
            assert dict(shown) == pytest.approx(found.probabilities)
            assert set(dict(shown)) == set(labels)
    assert page.run("document.documentElement.scrollWidth") == 390
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 22)"
    page.click("#settings")
    page.wait_for("document.querySelector('aside').getBoundingClientRect().bottom <= innerHeight + 1")
    page.click("#language")
