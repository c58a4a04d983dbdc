"""The interface behind which answers are written. vLLM needs a GPU: here only what happens without it, and what it is
asked, recorded by a stand-in for its two calls."""

import importlib.machinery
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from sft.config.decoding import DECODING
from sft.errors import ConfigError
from sft.generation import Generated, generate_batch
from sft.generation import batch as backends_module
from sft.generation.batch import VllmWriter, check_generator, open_writer

SHORT = DECODING["precise"].model_copy(update={"max_new_tokens": 6})


def prompts_of(loaded, texts: list[str]) -> list[list[int]]:
    return [loaded.chat.encode_prompt([{"role": "user", "content": text}]) for text in texts]


def test_transformers_behind_the_interface_is_generate_batch(tiny):
    prompts = prompts_of(tiny, ["a", "bb", "ccc"])
    writer = open_writer("transformers", tiny)
    assert writer.generate(prompts, SHORT) == generate_batch(tiny, prompts, SHORT)
    assert writer.without_adapter() is writer


def test_without_vllm_one_line_says_what_to_do():
    check_generator("transformers", "chat")
    with pytest.raises(
        ConfigError, match=r"--generator vllm: the package is not installed; run `pip install vllm`, or"
    ):
        check_generator("vllm", "precise")


@pytest.fixture
def vllm(monkeypatch) -> list[dict]:
    """A package named vllm that answers every prompt with the prompt's last two ids and its first stop id."""
    calls: list[dict] = []

    class LLM:
        def __init__(self, **options: object) -> None:
            calls.append(options)

        def generate(self, prompts, params, *, lora_request, use_tqdm):
            calls.append({"prompts": prompts, "params": params, "lora": lora_request})
            ids = [[*prompt[-2:], one.stop_token_ids[0]] for prompt, one in zip(prompts, params, strict=True)]
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=row)]) for row in ids]

    package, request = ModuleType("vllm"), ModuleType("vllm.lora.request")
    package.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    package.LLM, package.SamplingParams = LLM, lambda **options: SimpleNamespace(**options)
    package.TokensPrompt = lambda prompt_token_ids: prompt_token_ids
    request.LoRARequest = lambda *arguments: arguments
    for name, module in {"vllm": package, "vllm.lora": ModuleType("vllm.lora"), "vllm.lora.request": request}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40, 80))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return calls


def test_vllm_gets_the_same_ids_and_end_tokens_and_answers_greedily(tiny, vllm, tmp_path, monkeypatch):
    monkeypatch.setattr(backends_module, "VLLM_CHUNK", 2)
    check_generator("vllm", "precise")
    prompts, seen = prompts_of(tiny, ["a", "bb", "ccc", "dddd"]), []
    known = {1: Generated("known", [1], True)}
    answers = open_writer("vllm", tiny, tmp_path).generate(prompts, SHORT, known=known, on_answers=seen.append)
    engine, first, second = vllm
    assert (engine["model"], engine["enable_lora"]) == (str(tiny.source.folder), True)
    assert engine["gpu_memory_utilization"] == 0.425  # 85 % of what is free
    assert (first["prompts"], second["prompts"]) == ([prompts[0], prompts[2]], [prompts[3]])
    assert first["lora"] == ("run", 1, str(tmp_path))
    params = first["params"][0]
    assert (params.temperature, params.max_tokens, params.stop_token_ids) == (0.0, 6, list(tiny.chat.end_ids))
    assert answers[1] == known[1]
    assert answers[0] == Generated(tiny.chat.decode(prompts[0][-2:]), prompts[0][-2:], True)
    assert [sorted(batch) for batch in seen] == [[0, 2], [3]]


def test_the_untuned_model_is_the_same_engine_without_the_adapter(tiny, vllm, tmp_path):
    writer = open_writer("vllm", tiny, tmp_path)
    base = writer.without_adapter()
    assert isinstance(base, VllmWriter)
    base.generate(prompts_of(tiny, ["a"]), SHORT)
    assert [call["lora"] for call in vllm[1:]] == [None]
    assert base.engine is writer.engine


def test_vllm_draws_no_answers_since_its_penalties_look_at_the_question(vllm):
    with pytest.raises(ConfigError, match=r"--decoding chat --generator vllm: its penalties also punish words"):
        check_generator("vllm", "chat")
