"""The system prompt of the rows is the run's where they agree; where they do not, it is said."""

import json
from dataclasses import replace

import pytest

from prompts import Fingerprint
from prompts.task import make_definition, make_label_task
from prompts.tasks import add_task
from sft.data import open_dataset
from sft.runs.run import open_run
from sft.runs.system_prompts import describe_differing, survey_system_prompts

SUPPORT, SALES = "You are a support agent.", "You sell."


def talk(number: int, system: str | None) -> dict:
    own = [] if system is None else [{"role": "system", "content": system}]
    turns = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": f"answer {number}"}]
    return {"id": f"c{number}", "source": "s", "task": "chat", "messages": [*own, *turns]}


def instruct(number: int, **more: str) -> dict:
    return {
        "id": f"i{number}",
        "source": "s",
        "task": "instruct",
        "instruction": "?",
        "input": "",
        "output": "!",
        **more,
    }


@pytest.mark.parametrize(
    ("rows", "asked_for", "chosen", "line"),
    [
        ([instruct(1), talk(2, None)], "Be brief.", "Be brief.", ""),
        ([instruct(1)], None, None, ""),
        (
            [talk(1, SUPPORT), instruct(2, system=SUPPORT)],
            "Be brief.",
            SUPPORT,
            "system prompt: all 2 rows have 'You are a support agent.', and so has the run (--system_prompt would hold "
            "for rows without one)",
        ),
        (
            [talk(1, SUPPORT), talk(2, SUPPORT)],
            SUPPORT,
            SUPPORT,
            "system prompt: all 2 rows have 'You are a support agent.', and so has the run",
        ),
        (
            [talk(1, SUPPORT), talk(2, SALES), talk(3, None)],
            "Be brief.",
            "Be brief.",
            "system prompts: 2 of 3 rows have one of their own and keep it, 3 different ones in all; chat.py, "
            "inference.py and serve.py will ask under 'Be brief.' (--system_prompt)",
        ),
        (
            [talk(1, SUPPORT), talk(2, None)],
            None,
            None,
            "system prompts: 1 of 2 rows have one of their own and keep it, 2 different ones in all; chat.py, "
            "inference.py and serve.py will ask under the chat template's own (--system_prompt)",
        ),
    ],
)
def test_the_system_prompt_of_the_rows_is_chosen_and_one_line_explains_it(rows, asked_for, chosen, line):
    found = survey_system_prompts(rows, asked_for)
    assert (found.chosen, found.describe()) == (chosen, line)


def test_a_row_with_the_words_of_the_setting_as_its_own_agrees_with_rows_that_have_none():
    assert survey_system_prompts([talk(1, SUPPORT), talk(2, None)], SUPPORT).chosen == SUPPORT


def test_a_task_that_brings_a_system_prompt_counts_only_where_there_is_nothing_else():
    definition = make_definition("mood of a test", {"labels": ["low", "high"], "system": "You sort moods."})
    task = add_task(make_label_task(definition))
    moods = [{"id": "m", "source": "s", "task": task.name, "text": "so so", "label": "low"}]
    assert survey_system_prompts(moods, "Be brief.").chosen == "You sort moods."
    mixed = survey_system_prompts([*moods, talk(1, SUPPORT)], "Be brief.")
    assert (mixed.chosen, mixed.num_distinct) == (SUPPORT, 1)
    assert survey_system_prompts([*moods, instruct(1)], "Be brief.").describe() == ""


@pytest.fixture
def write_talks(tmp_path):
    """write_talks([SUPPORT, SALES]) -> a file of forty conversations under these in turn."""

    def write(prompts: list[str | None]) -> str:
        path = tmp_path / "talks.jsonl"
        rows = [{"messages": talk(n, prompts[n % len(prompts)])["messages"]} for n in range(40)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def train(tiny_model_folder, tmp_path):
    """train(data, "--max_steps", 1) -> the run, in tmp_path/run."""
    from sft.config.layers import load_settings
    from sft.config.train import TrainSettings
    from sft.training.fit import fit

    def run(data: str, *flags: object):
        always = ["--model", tiny_model_folder, "--data", data, "--output_dir", tmp_path / "run", "--method", "lora"]
        words = [*always, "--dtype", "fp32", "--max_seq_length", "192", "--max_steps", "1", *flags]
        settings = load_settings(TrainSettings, [str(word) for word in words])
        dataset = open_dataset(settings.data, eval_ratio=settings.eval_ratio, seed=settings.split_seed)
        return open_run(fit(settings, dataset).run_dir)

    return run


def test_a_run_answers_under_the_system_prompt_that_all_of_its_rows_have(write_talks, train, capsys):
    from sft.inference import Predictor

    run = train(write_talks([SUPPORT]), "--system_prompt", "Be brief.")

    assert "system prompt: all 40 rows have 'You are a support agent.', and so has the run" in capsys.readouterr().err
    assert run.system_prompt == SUPPORT
    assert run.fingerprint.parts["system prompt"] == repr(SUPPORT)
    assert run.data["system_prompts"] == {"rows": 40, "own": 40, "distinct": 1}
    assert describe_differing(run, "") == ""
    predictor = Predictor(run)  # the fingerprint is that of the run
    asked = predictor.loaded.chat.decode(predictor._ask("hello").ids)
    assert asked == f"system\n{SUPPORT}\nuser\nhello\nassistant\n"


def test_a_run_whose_rows_differ_says_so_in_every_script(write_talks, train, capsys):
    run = train(write_talks([SUPPORT, SALES, None]), "--system_prompt", "Be brief.")

    assert "have one of their own and keep it, 3 different ones in all" in capsys.readouterr().err
    assert run.system_prompt == "Be brief."
    assert describe_differing(run, "/system TEXT sets another") == (
        "trained under 3 different system prompts (27 of 40 rows had their own); using 'Be brief.' here, and "
        "/system TEXT sets another"
    )


def test_a_run_of_an_earlier_version_resumes_under_the_prompt_it_began_with(write_talks, train):
    data = write_talks([SUPPORT])
    run = train(data, "--system_prompt", "Be brief.")
    from sft.models.loading import load_run

    loaded = load_run(run)
    base = {name: value for name, value in run.base.items() if name not in ("name", "revision")}
    fingerprint = Fingerprint.of(loaded.chat, "Be brief.", run.tasks, base)
    facts = {name: value for name, value in run.data.items() if name != "system_prompts"}
    replace(run, system_prompt="Be brief.", fingerprint=fingerprint, data=facts, status="training").save()

    again = train(data, "--system_prompt", "Be brief.", "--max_steps", 2, "--resume_from_checkpoint", "auto")

    assert (again.system_prompt, again.status) == ("Be brief.", "complete")
    assert describe_differing(replace(run, data=facts), "") == ""
