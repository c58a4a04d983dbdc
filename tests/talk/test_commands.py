import pytest

from prompts.family import TURN_START


def test_undo_retry_and_clear_change_what_the_model_sees_next(partner, turns, capsys):
    partner.talk("a", "b", "/undo", "/retry", "c", "/clear", "d")
    assert partner.prompts[2:] == [
        partner.chat.encode_prompt(turns("Be brief.", "a")),
        partner.chat.encode_prompt(turns("Be brief.", "a", "fine", "c")),
        partner.chat.encode_prompt(turns("Be brief.", "d")),
    ]
    assert partner.seeds == [42, 43, 44, 45, 46]
    assert "(forgotten; /load last brings it back)\n" in capsys.readouterr().err


def test_a_retry_that_is_stopped_at_once_gives_the_former_answer_back(partner):
    partner.answers = [["first"], [KeyboardInterrupt()]]
    partner.talk("a", "/retry")
    assert partner.conversation.last.answer == "first"


def test_set_changes_one_value_and_refuses_others_in_one_line(partner, capsys):
    partner.talk(
        "/set temperature 0.7", "/set seed = 5", "/set temperatur 1", "/set hat 1", "/set top_p 7", "/set", "a"
    )
    err = capsys.readouterr().err
    assert (partner.session.decoding.temperature, partner.session.decoding.top_p, partner.seeds) == (0.7, 0.9, [5])
    assert "error: 'temperatur' is nothing to set; did you mean 'temperature'?\n" in err
    assert "error: 'hat' is nothing to set; names: max_new_tokens, " in err
    assert "error: top_p 7: should be less than or equal to 1\n" in err
    assert "error: /set takes a name and a value, as in /set temperature 0.7; names: " in err


def test_system_shows_sets_and_takes_away_the_system_prompt(partner, turns, capsys):
    partner.talk("/system", "/system 你是医生", "a", "/system none", "b")
    err = capsys.readouterr().err
    assert "system prompt: Be brief.\nsystem prompt: 你是医生\n" in err
    assert "(no system prompt: the model's template decides)\n" in err
    assert partner.prompts == [
        partner.chat.encode_prompt(turns("你是医生", "a")),
        partner.chat.encode_prompt(turns("", "a", "fine", "b")[1:]),
    ]


def test_save_leave_and_load_bring_the_conversation_back(partner, turns, capsys):
    partner.talk("a", "/save mine", "exit")
    partner.conversation.clear()
    capsys.readouterr()
    partner.talk("/load mine", "b")
    assert partner.prompts[-1] == partner.chat.encode_prompt(turns("Be brief.", "a", "fine", "b"))
    out, err = capsys.readouterr()
    assert "(taken up: 1 question and answers)\nlast question: a\nlast answer:\n" in err
    assert out == "fine\nfine\n"  # what was said, shown as an answer, and the new one
    assert sorted(path.name for path in partner.chats.folder.iterdir()) == ["last.jsonl", "mine.jsonl"]


def test_through_a_pipe_stdout_holds_new_answers_alone_also_after_a_load(partner, capsys):
    partner.talk("a", "/save mine", "exit")
    capsys.readouterr()
    partner.talk("/load mine", is_terminal=False)
    out, err = capsys.readouterr()
    assert (out, "last answer: fine\n" in err) == ("", True)


def test_load_alone_lists_what_there_is_and_never_the_chat_itself(partner, capsys):
    partner.talk("/load", "a", "/save mine", "/load")
    err = capsys.readouterr().err
    assert "(no conversation is saved yet)\n" in err
    assert err.count("mine: 1 question, ") == 1
    assert err.endswith("/load NAME takes one up\n")


def test_loading_another_conversation_puts_the_present_one_aside(partner, capsys):
    partner.talk("a", "/save mine", "/clear", "precious", "/load mine", "/load last")
    assert [turn["content"] for turn in partner.conversation.messages()] == ["Be brief.", "precious", "fine"]


def test_a_name_that_is_taken_missing_or_unprintable_costs_one_line_and_nothing_else(partner, capsys):
    partner.talk("a", "/save mine", "/clear", "b", "/save mine", "/load nobody", "/save x\x1by")
    err = capsys.readouterr().err
    assert "mine.jsonl is there already; choose another name\n" in err
    assert "nobody.jsonl: no such conversation; saved are: " in err
    assert "error: a name may hold no control characters; choose another one\n" in err
    assert [turn["content"] for turn in partner.conversation.messages()] == ["Be brief.", "b", "fine"]


def test_tokens_shows_the_prompt_with_its_control_tokens_marked_and_typed_ones_as_text(partner, capsys):
    partner.talk("hi<|im_end|>\x1b", "/tokens")
    out, err = capsys.readouterr()
    shown = "⟦<|im_start|>⟧user\nhi<|im_end|>␛⟦<|im_end|>⟧\n⟦<|im_start|>⟧assistant\n"
    assert out == f"fine\n⟦{TURN_START}⟧system\nBe brief.⟦<|im_end|>⟧\n{shown}\n"
    assert f"({len(partner.prompts[0])} tokens, 5 of them control tokens, shown as ⟦…⟧; 0 left out)\n" in err


def test_params_names_every_value_the_model_and_the_room_left(partner, capsys):
    partner.talk("a", "/params")
    err = capsys.readouterr().err
    assert "temperature = 0.8         0: always the likeliest token; 1: as the model believes\n" in err
    assert f"the model reads 512 tokens; the last prompt took {len(partner.prompts[0])} of them\n" in err


def test_compare_asks_both_with_one_seed_and_remembers_nothing(tuned_partner, turns, capsys):
    adapted = []
    layer = tuned_partner.loaded.model.base_model.model.model.layers[0].self_attn.q_proj
    tuned_partner.answers = [["fine"], ["base\x1b says"], ["tuned says"], ["b"], ["t"]]
    start = tuned_partner.session.start
    tuned_partner.session.start = lambda prompt, decoding, *loaded: (
        adapted.append(not layer.disable_adapters),
        start(prompt, decoding, *loaded),
    )[1]
    tuned_partner.talk("a", "/compare", "/compare other", is_terminal=False)
    assert adapted == [True, False, True, False, True]
    assert tuned_partner.prompts[0] == tuned_partner.prompts[1] == tuned_partner.prompts[2]
    assert tuned_partner.prompts[3] == tuned_partner.chat.encode_prompt(turns("Be brief.", "a", "fine", "other"))
    assert tuned_partner.seeds[1:] == [42] * 4
    assert tuned_partner.conversation.messages() == turns("Be brief.", "a", "fine")
    assert capsys.readouterr().out == "fine\nbase: base␛ says\ntuned: tuned says\nbase: b\ntuned: t\n"


def test_compare_loads_the_base_of_a_run_that_has_no_adapter(full_partner, capsys):
    partner = full_partner
    partner.answers = [["fine"], ["base says"], ["tuned says"]]
    asked = []
    start = partner.session.start
    partner.session.start = lambda prompt, decoding, *loaded: (asked.extend(loaded), start(prompt, decoding, *loaded))[
        1
    ]
    partner.talk("a", "/compare", is_terminal=False)
    out = capsys.readouterr().out
    assert out == "fine\nbase: base says\ntuned: tuned says\n"
    assert asked[1] is partner.loaded
    assert not asked[0].is_tuned
    name = "model.layers.0.self_attn.q_proj.weight"
    base, tuned = (loaded.model.state_dict()[name] for loaded in asked)
    assert not base.equal(tuned)


def test_an_untuned_model_has_nothing_to_be_compared_with(partner, capsys):
    partner.talk("a", "/compare")
    expected = "(this is the untuned model: there is nothing to compare it with; start chat.py with a run)\n"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("line", ["/undo", "/retry", "/compare", "/tokens", "/save"])
def test_commands_that_need_a_question_say_that_there_is_none(tuned_partner, line, capsys):
    tuned_partner.talk(line)
    assert capsys.readouterr().err.startswith("(")
    assert tuned_partner.prompts == []
