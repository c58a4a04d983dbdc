import json

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen3Config

from sft.errors import ModelError
from sft.export.gguf_file import QWEN_SPLIT, check_convertible, estimate_gguf_bytes, name_pre_tokenizer, write_gguf
from tests.tiny import make_tiny_model

SIZES = {
    "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


@pytest.fixture
def model_folder(tmp_path, tiny_model_folder):
    """model_folder(config): a random model of an architecture, with the tiny tokenizer."""

    def make(config):
        tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
        config.vocab_size = len(tokenizer) + 5  # padded, as Qwen's are
        config.eos_token_id, config.pad_token_id, config.bos_token_id = tokenizer.eos_token_id, 0, None
        torch.manual_seed(1)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return tmp_path

    return make


def logits_of(folder, **options):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
    with torch.inference_mode():
        return model(torch.arange(3, 40)[None]).logits


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_k_m"])
@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES, tie_word_embeddings=True, rope_theta=100000.0),
        Qwen3Config(**SIZES, head_dim=128, tie_word_embeddings=False),
    ],
    ids=["llama-tied", "qwen3-untied"],
)
def test_transformers_reads_the_model_that_was_written(config, kind, model_folder):
    folder = model_folder(config)
    write_gguf(folder, folder / "m.gguf", kind, name="m")
    found, expected = logits_of(folder, gguf_file="m.gguf"), logits_of(folder)
    assert found.shape == expected.shape
    allowed = {"f16": 0.002, "q8_0": 0.03, "q4_k_m": 0.3}[kind]
    assert (found - expected).abs().max() < allowed * expected.abs().max()
    assert (found.argmax(-1) == expected.argmax(-1)).float().mean() > {"f16": 0.97, "q8_0": 0.9, "q4_k_m": 0.5}[kind]


def test_qwen2_with_its_biases_is_read_back_too(tmp_path):
    folder = make_tiny_model(tmp_path / "model")
    write_gguf(folder, tmp_path / "m.gguf", "f16", name="m")
    expected = logits_of(folder)
    assert (logits_of(tmp_path, gguf_file="m.gguf") - expected).abs().max() < 0.002 * expected.abs().max()


def test_tokens_template_and_end_token_are_embedded(tiny_model_folder, tmp_path):
    write_gguf(tiny_model_folder, tmp_path / "m.gguf", "f16", name="my run")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "m.gguf").fields.items()}
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    assert fields["general.architecture"] == "qwen2"
    assert fields["general.name"] == "my run"
    assert fields["tokenizer.chat_template"] == tokenizer.chat_template
    assert fields["tokenizer.ggml.tokens"] == tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert fields["tokenizer.ggml.tokens"][fields["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"
    assert fields["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]  # three control tokens, then bytes
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert fields["tokenizer.ggml.add_bos_token"] is False


def test_rows_of_the_embedding_without_a_token_are_named_unused(model_folder):
    folder = model_folder(LlamaConfig(**SIZES))
    write_gguf(folder, folder / "m.gguf", "f16", name="m")
    fields = gguf.GGUFReader(folder / "m.gguf").fields
    num_tokens = len(AutoTokenizer.from_pretrained(folder))
    assert fields["tokenizer.ggml.tokens"].contents()[num_tokens:] == [f"[PAD{num_tokens + n}]" for n in range(5)]
    assert fields["tokenizer.ggml.token_type"].contents()[num_tokens:] == [5] * 5


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, r"^GPT2LMHeadModel is none of LlamaForCausalLM, Qwen2ForCausalLM"),
        (
            {"architectures": ["Qwen3_5ForConditionalGeneration"]},
            "^Qwen3_5ForConditionalGeneration: transformers cannot read a GGUF file of it, so none could be compared",
        ),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, r"^rope_type 'yarn' is not covered by --gguf"),
        ({"attention_bias": True}, r"^a Llama with biases is not covered by --gguf"),
    ],
)
def test_what_the_writer_does_not_cover_is_refused_with_another_way(values, message, model_folder):
    folder = model_folder(LlamaConfig(**SIZES))
    change_config(folder, **values)
    with pytest.raises(ModelError, match=message + r".*; use --merge, then convert the merged folder with llama\.cpp"):
        check_convertible(folder)


def steps(*kinds):
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(kinds)}}


def test_each_way_of_cutting_texts_has_llama_cpps_name():
    byte_level = {"type": "ByteLevel", "use_regex": True}
    qwen = {"type": "Split", "pattern": {"Regex": QWEN_SPLIT}}
    assert name_pre_tokenizer(steps(qwen, {"type": "ByteLevel", "use_regex": False})) == "qwen2"
    assert name_pre_tokenizer(steps({"type": "Digits", "individual_digits": True}, byte_level)) == "smollm"
    assert name_pre_tokenizer({"pre_tokenizer": byte_level}) == "gpt-2"


@pytest.mark.parametrize(
    "content",
    [
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Metaspace"}},
        {"pre_tokenizer": {"type": "ByteLevel", "use_regex": False}},
        steps({"type": "Split", "pattern": {"Regex": r"\s+"}}, {"type": "ByteLevel", "use_regex": False}),
    ],
)
def test_a_tokenizer_that_cuts_in_another_way_is_refused(content):
    with pytest.raises(ModelError, match=r"^the tokenizer cuts texts by .*, which --gguf does not cover; use --merge"):
        name_pre_tokenizer(content)


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_k_m"])
def test_a_file_takes_no_more_than_was_estimated(kind, tiny_model_folder, tmp_path):
    write_gguf(tiny_model_folder, tmp_path / "m.gguf", kind, name="m")
    assert (tmp_path / "m.gguf").stat().st_size < estimate_gguf_bytes(30_000, kind)
