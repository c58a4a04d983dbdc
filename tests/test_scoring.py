"""sft.scoring and sft.scoring against independent float64 computations on a real tiny model."""

import json
import math
import random
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from prompts import Encoded
from sft import scoring
from sft.config.decoding import choose_decoding
from sft.generation.batch import Room, generate_batch
from sft.generation.cache import BatchCache
from sft.models.loaded import LoadedModel
from sft.models.loading import load_base, load_run
from sft.runs.run import RUN_FILE, open_run
from sft.scoring import RowScore, count_first_choices, score_labels, score_rows, token_weighted_loss


@pytest.fixture(scope="module")
def loaded(tiny_model_folder: Path) -> LoadedModel:
    return load_base(str(tiny_model_folder), dtype="fp32")


@pytest.fixture(scope="module")
def rows(loaded: LoadedModel) -> list[Encoded]:
    rng = random.Random(0)
    return [
        loaded.chat.encode(
            [
                {"role": "user", "content": "问" * rng.randint(1, 40)},
                {"role": "assistant", "content": "answer " * rng.randint(1, 6)},
            ]
        )
        for _ in range(24)
    ]


@pytest.fixture(scope="module")
def in_float64(loaded: LoadedModel) -> torch.nn.Module:
    """The same model in double precision."""
    model = type(loaded.causal_lm)(loaded.causal_lm.config).double()
    model.load_state_dict(loaded.causal_lm.state_dict())
    return model.eval()


def test_first_choices_are_those_of_all_logits_row_by_row(loaded: LoadedModel, rows, in_float64: torch.nn.Module):
    """Three rows end as the model itself would: some of their tokens are its likeliest."""
    rows = deepcopy(rows)
    for row in rows[:3]:
        with torch.no_grad():
            first = in_float64(input_ids=torch.tensor([row.input_ids])).logits[0].argmax(-1).tolist()
        row.input_ids[-2] = first[-3]
    expected = []
    for row in rows:
        with torch.no_grad():
            first = in_float64(input_ids=torch.tensor([row.input_ids])).logits[0].argmax(-1).tolist()
        places = [place for place, flag in enumerate(row.loss_mask) if flag]
        expected.append((sum(first[place - 1] == row.input_ids[place] for place in places), len(places)))
    found = count_first_choices(loaded, rows)
    assert found == expected
    assert sum(hits for hits, _ in found) >= 3


def nll_in_float64(model: torch.nn.Module, row: Encoded) -> float:
    """The plain way: one row, all logits, float64, log_softmax, pick."""
    ids = torch.tensor([row.input_ids])
    with torch.no_grad():
        log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
    return -sum(
        log_probs[place - 1, token].item()
        for place, (token, flag) in enumerate(zip(row.input_ids, row.loss_mask, strict=True))
        if flag
    )


def test_row_scores_equal_an_independent_float64_computation(loaded, in_float64, rows):
    found = score_rows(loaded, rows, shown=False)
    assert [score.num_tokens for score in found] == [row.num_supervised for row in rows]
    for score, row in zip(found, rows, strict=True):
        assert score.nll == pytest.approx(nll_in_float64(in_float64, row), rel=1e-6)


def test_the_loss_does_not_depend_on_the_batch(loaded, rows, monkeypatch):
    losses = []
    for budget in (1, 200, 800, 100_000):  # one row a batch ... all rows in one
        monkeypatch.setitem(scoring.TOKENS_PER_BATCH, "cpu", budget)
        losses.append(token_weighted_loss(score_rows(loaded, rows, shown=False)))
    assert max(losses) - min(losses) < 1e-6


def test_loss_and_perplexity_are_the_same_at_1_4_16_and_64_rows_a_batch_and_those_of_float64(loaded, in_float64):
    rng = random.Random(1)
    rows = [
        loaded.chat.encode(
            [
                {"role": "user", "content": "问题 question " * rng.randint(1, 12)},
                {"role": "assistant", "content": "an answer 答案 " * rng.randint(1, 5)},
            ]
        )
        for _ in range(70)
    ]
    num_tokens = sum(row.num_supervised for row in rows)
    expected = math.fsum(nll_in_float64(in_float64, row) for row in rows) / num_tokens
    for max_rows in (1, 4, 16, 64):
        scores = score_rows(loaded, rows, shown=False, max_rows=max_rows)
        loss = token_weighted_loss(scores)
        assert loss == pytest.approx(expected, rel=1e-6)
        assert math.exp(loss) == pytest.approx(math.exp(expected), rel=1e-6)


def test_logits_in_chunks_give_the_same_scores(loaded, rows, monkeypatch):
    whole = score_rows(loaded, rows, shown=False)
    monkeypatch.setitem(scoring.LOGITS_BYTES, "cpu", 5 * 4 * len(loaded.tokenizer))
    monkeypatch.setitem(scoring.FP32_BYTES, "cpu", 2 * 4 * len(loaded.tokenizer))
    for before, after in zip(whole, score_rows(loaded, rows, shown=False), strict=True):
        assert after.nll == pytest.approx(before.nll, rel=1e-6)


def test_a_batch_holds_at_most_so_many_tokens_as_training_had(loaded, rows, monkeypatch):
    sizes = []
    real = scoring.score_batch
    monkeypatch.setattr(
        scoring, "score_batch", lambda *args: (sizes.append([len(row.input_ids) for row in args[1]]), real(*args))[1]
    )
    score_rows(loaded, rows, shown=False, max_tokens=300)
    assert max(sum(batch) for batch in sizes if len(batch) > 1) <= 300
    assert max(map(len, sizes)) > 1


def test_the_loss_weighs_tokens_not_rows():
    assert token_weighted_loss([RowScore(10.0, 1), RowScore(10.0, 9)]) == 2.0


def test_labels_score_as_their_rows_do_with_the_prompt_computed_once(loaded, monkeypatch):
    options = [("正面", "负面"), ("a", "longer label", "中"), ("x",)]
    prompts = [loaded.chat.encode_prompt([{"role": "user", "content": "text " * n}]) for n in (1, 9, 4)]
    expected = []
    for prompt, allowed in zip(prompts, options, strict=True):
        answers = [loaded.chat.encode_answer(label) for label in allowed]
        rows = [Encoded([*prompt, *ids], [0] * len(prompt) + [1] * len(ids)) for ids in answers]
        expected.append([-score.nll for score in score_rows(loaded, rows, shown=False)])
    monkeypatch.setattr("sft.scoring.score_rows", lambda *_, **__: pytest.fail("whole rows were computed"))
    found = score_labels(loaded, prompts, options, shown=False)
    assert [len(row) for row in found] == [2, 3, 1]
    for row, reference in zip(found, expected, strict=True):
        assert row == pytest.approx(reference, rel=1e-5)


def test_what_computes_in_its_own_way_scores_labels_by_whole_rows_alone(loaded, monkeypatch):
    prompts = [loaded.chat.encode_prompt([{"role": "user", "content": "text " * n}]) for n in (1, 9)]
    expected = score_labels(loaded, prompts, [("正面", "负面")] * 2, shown=False)
    monkeypatch.setattr("sft.scoring._score_batch", lambda *_: pytest.fail("our caches were used"))
    for name, value in (("backend", "unsloth"), ("caching", "ALONE")):
        with monkeypatch.context() as patch:
            patch.setattr(loaded, name, value)
            found = score_labels(loaded, prompts, [("正面", "负面")] * 2, shown=False)
        assert [pytest.approx(row, rel=1e-5) for row in expected] == found


def test_a_model_that_forgets_old_positions_scores_labels_by_whole_rows(loaded, monkeypatch):
    prompts = [loaded.chat.encode_prompt([{"role": "user", "content": "text"}])]
    expected = score_labels(loaded, prompts, [("正面", "负面")], shown=False)
    monkeypatch.setattr(BatchCache, "keeps_all", property(lambda self: False))
    monkeypatch.setattr("sft.scoring._score_batch", lambda *_: pytest.fail("our caches were used"))
    assert [pytest.approx(row, rel=1e-5) for row in expected] == score_labels(
        loaded, prompts, [("正面", "负面")], shown=False
    )


def test_a_batch_of_labels_holds_no_more_than_the_device_nor_the_caller_allows(loaded, monkeypatch):
    prompts = [
        loaded.chat.encode_prompt([{"role": "user", "content": word}]) for word in ("a", "b", "c", "d", "e", "f")
    ]
    sizes = []
    real = scoring._score_batch
    monkeypatch.setattr(scoring, "_score_batch", lambda *args: (sizes.append(len(args[2])), real(*args))[1])

    def batches(max_tokens):
        sizes.clear()
        score_labels(loaded, prompts, [("x", "yes")] * 6, shown=False, max_tokens=max_tokens)
        return sorted(sizes)

    monkeypatch.setattr(scoring, "share_of", lambda limit, device: limit)
    assert max(batches(99)) > 1  # what all prompts begin with does not count
    assert batches(1) == [1] * 6
    monkeypatch.setitem(scoring.TOKENS_PER_BATCH, "cpu", 1)
    assert batches(10**6) == [1] * 6


def test_scoring_leaves_a_model_in_training_mode_where_it_found_it_so(loaded, rows):
    loaded.model.train()
    score_rows(loaded, rows[:1], shown=False)
    assert loaded.model.training
    loaded.model.eval()


def test_with_the_adapter_off_a_run_scores_as_its_base_does(tiny_run, loaded, rows):
    tuned = load_run(open_run(tiny_run))
    with tuned.adapter_off():
        base_scores = score_rows(tuned, rows, shown=False)
    assert base_scores == score_rows(loaded, rows, shown=False)
    assert score_rows(tuned, rows, shown=False) != base_scores


def test_a_runs_figures_are_the_same_whatever_the_batch_and_the_threads(tiny_run: Path, tmp_path: Path):
    """A run trained in bf16, as on processors that multiply it: scored so, scores moved by 1e-2 with the batch."""
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    content = json.loads((folder / RUN_FILE).read_text())
    content["settings"]["dtype"] = "bf16"
    (folder / RUN_FILE).write_text(json.dumps(content))
    loaded = load_run(open_run(folder))
    rng = random.Random(2)
    texts = ["".join(rng.choices("好坏房间很服务 abc", k=rng.randint(1, 40))) for _ in range(16)]
    prompts = [loaded.chat.encode_prompt([{"role": "user", "content": text}]) for text in texts]
    turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}] for text in texts]
    rows, labels = [loaded.chat.encode(turn) for turn in turns], [("负面", "正面")] * len(prompts)
    decoding = choose_decoding("precise", max_new_tokens=4)

    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for max_tokens in (64, 256, 4096):
                scores = torch.tensor(score_labels(loaded, prompts, labels, shown=False, max_tokens=max_tokens))
                nll = torch.tensor([row.nll for row in score_rows(loaded, rows, shown=False, max_tokens=max_tokens)])
                answers = generate_batch(loaded, prompts[:6], decoding, room=Room(max_tokens, 2**13 * max_tokens))
                found.append((scores, nll, [answer.token_ids for answer in answers]))
    finally:
        torch.set_num_threads(before)
    first_scores, first_nll, first_answers = found[0]
    for scores, nll, answers in found[1:]:
        assert torch.equal(scores.argmax(1), first_scores.argmax(1))
        torch.testing.assert_close(scores, first_scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(nll, first_nll, atol=1e-4, rtol=1e-6)
        assert answers == first_answers
