import pytest
from pydantic import ValidationError

from sft.config.decoding import DECODING, Decoding, choose_decoding
from sft.config.layers import load_settings
from sft.config.serve import ServeSettings
from sft.config.talk import ChatSettings, InferenceSettings
from sft.errors import ConfigError


def test_the_chat_preset_holds_the_published_values_and_precise_is_greedy():
    chat = Decoding(max_new_tokens=512, temperature=0.8, top_p=0.9, repetition_penalty=1.3, no_repeat_ngram_size=3)
    assert {"chat": chat, "precise": Decoding(max_new_tokens=512, temperature=0, top_p=1)} == DECODING


def test_flags_change_single_values_of_the_preset():
    settings = load_settings(ChatSettings, ["--temperature", "0.5", "--max_new_tokens", "64", "--seed", "7"])
    changed = {"temperature": 0.5, "max_new_tokens": 64, "seed": 7}
    assert settings.decoding_of(settings.decoding) == DECODING["chat"].model_copy(update=changed)
    assert choose_decoding("precise", temperature=None) == DECODING["precise"]


def test_impossible_values_are_refused():
    with pytest.raises(ValidationError):
        choose_decoding("chat", top_p=0)
    with pytest.raises(ConfigError, match=r"^top_p \(flag\): '2' should be less than or equal to 1$"):
        load_settings(InferenceSettings, ["--top_p", "2"])


def test_chat_samples_and_the_other_scripts_are_greedy_by_default():
    defaults = [load_settings(settings, []).decoding for settings in (ChatSettings, InferenceSettings, ServeSettings)]
    assert defaults == ["chat", "precise", "precise"]
    asked = load_settings(InferenceSettings, ["--temperature", "0.7"])
    assert asked.decoding_of(asked.decoding) == Decoding(temperature=0.7)  # drawn, and no more than that


def test_a_run_and_an_untuned_model_cannot_both_be_talked_to():
    with pytest.raises(ConfigError, match="run and model are both given; keep --run"):
        load_settings(ChatSettings, ["--run", "outputs/a", "--model", "embedded"])
