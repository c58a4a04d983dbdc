import pytest
import torch
from peft import LoraConfig, get_peft_model

from sft.generation.selfcheck import Caching, find_caching
from sft.models.loaded import LoadedModel
from sft.models.loading import load_base


@pytest.fixture
def tiny(tiny_model_folder) -> LoadedModel:
    """The tiny model in fp32, context 512, with weights so large that rounding decides nothing."""
    torch.set_num_threads(1)  # matrices this small only wait for each other
    loaded = load_base(str(tiny_model_folder), dtype="fp32")
    torch.manual_seed(0)
    for parameter in loaded.model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.4)
    return loaded


@pytest.fixture
def tiny_adapted(tiny) -> LoadedModel:
    """The same model below an adapter that changes it."""
    model = get_peft_model(tiny.model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    tiny.model = model.eval()
    return tiny


class ScriptedHead(torch.nn.Module):
    """In the place of lm_head: each call makes every row's next scripted token the likeliest."""

    def __init__(self, vocab_size: int, rows: list[list[int]]) -> None:
        super().__init__()
        self.vocab_size, self.rows, self.num_calls = vocab_size, rows, 0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = hidden.new_zeros(*hidden.shape[:-1], self.vocab_size)  # (B, D) or (B, T, D) -> as many of V
        for row, tokens in enumerate(self.rows):
            logits[row, ..., tokens[self.num_calls % len(tokens)]] = 10.0
        self.num_calls += 1
        return logits


@pytest.fixture
def say_with(tiny):
    """say_with([[5, 7], [9, 2]]) makes the tiny model write these tokens (again and again), row by row of a batch."""

    def script(rows: list[list[int]]) -> ScriptedHead:
        assert tiny.output_layer.is_plain  # proven with its own head, before the scripted one counts calls
        assert find_caching(tiny) is Caching.TOGETHER  # the same
        tiny.model.lm_head = ScriptedHead(len(tiny.tokenizer), rows)
        return tiny.model.lm_head

    return script
