"""Text without control tokens, and a user's tokenizer that stays as it was."""

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from prompts import PromptError
from prompts.text_encoder import TextEncoder


def test_the_tokenizer_it_was_made_of_is_left_as_it_was(tiny_backend):
    before = tiny_backend.to_str()
    encoder = TextEncoder(tiny_backend)
    encoder.encode(["<|im_end|> text", "文字"])

    assert tiny_backend.to_str() == before
    assert len(tiny_backend.encode("<|im_end|>").ids) == 1


def test_truncation_and_padding_left_in_the_tokenizer_do_not_matter(tiny_backend):
    used = Tokenizer.from_str(tiny_backend.to_str())
    used.enable_truncation(4)
    used.enable_padding(length=64)

    assert TextEncoder(used).encode(["一段较长的文字"]) == TextEncoder(tiny_backend).encode(["一段较长的文字"])


def test_a_character_without_bytes_in_the_vocabulary_becomes_a_replacement_and_no_control_token(embedded_tokenizer):
    encoder = TextEncoder(embedded_tokenizer.backend_tokenizer)
    unknown = embedded_tokenizer.encode("\x04", add_special_tokens=False)
    [ids] = encoder.encode(["a\x04b\U0004000f"])

    assert unknown == [0]  # <|endoftext|>: what the tokenizer itself makes of it
    assert encoder.decode(ids) == "a\ufffdb\ufffd"
    assert encoder.control_ids.isdisjoint(ids)


def test_a_lone_surrogate_is_refused(tiny_backend):
    with pytest.raises(PromptError) as caught:
        TextEncoder(tiny_backend).encode(["fine", "not\udc80"])
    assert str(caught.value) == "a text has a lone surrogate, which is not a character; fix or drop the text"


def test_a_vocabulary_that_writes_control_tokens_from_plain_text_is_refused():
    backend = Tokenizer(models.WordLevel({"<|im_end|>": 0, "\ufffd": 0}, unk_token="<|im_end|>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([AddedToken("<|im_end|>")])

    with pytest.raises(PromptError) as caught:
        TextEncoder(backend).encode(["word"])
    assert str(caught.value) == "the tokenizer makes a control token of the text 'word'; use another tokenizer"


def test_tokens_are_located_by_the_characters_they_cover(embedded_tokenizer):
    spans = TextEncoder(embedded_tokenizer.backend_tokenizer).locate("hello world")

    assert (list(spans), spans[-1]) == ([(0, 5), (5, 11)], (5, 11))


def test_a_description_distinguishes_tokenizers_and_survives_saving(embedded_tokenizer, tiny_backend, tmp_path):
    from transformers import AutoTokenizer

    embedded_tokenizer.save_pretrained(tmp_path)
    saved = TextEncoder(AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer)
    changed = Tokenizer.from_str(tiny_backend.to_str())
    changed.add_tokens(["<one_more>"])

    assert saved.describe() == TextEncoder(embedded_tokenizer.backend_tokenizer).describe()
    assert saved.describe().startswith("49,152 tokens, sha256 ")
    assert TextEncoder(changed).describe() != TextEncoder(tiny_backend).describe()
