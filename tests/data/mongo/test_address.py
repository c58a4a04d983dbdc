"""Addresses of servers: what is read of a URI, and that nothing shows a password."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.config.secrets import holds_password, refuse_password_words
from sft.data.mongo import Address, find_password, make_address, redact
from sft.errors import ConfigError


def test_a_uri_is_split_so_that_its_password_is_separate(tmp_path, capsys):
    path = tmp_path / "uri"
    path.write_text(
        "mongodb+srv://ada%40x:p%3Aw@a.example,b.example/texts?authSource=staff&tls=true\n", encoding="utf-8"
    )
    path.chmod(0o644)

    address = make_address(uri_file=str(path))

    assert address == Address(
        uri="mongodb+srv://a.example,b.example/?authSource=staff&tls=true",
        database="texts",
        user="ada@x",
        auth_database="staff",
        password="p:w",
    )
    assert address.shown == "mongodb+srv://a.example,b.example"
    assert "p:w" not in repr(address)
    assert find_password(address) == "p:w"
    assert capsys.readouterr().err == (
        f"warning: {path} can be read by others on this machine; run: chmod 600 {path}\n"
    )


@pytest.mark.parametrize(
    ("keys", "uri"),
    [
        ({}, "mongodb://localhost:27017"),
        ({"host": "db.example", "port": 1}, "mongodb://db.example:1"),
        ({"host": "::1"}, "mongodb://[::1]:27017"),
        ({"uri": "mongodb://h"}, "mongodb://h/"),
    ],
)
def test_a_server_is_named_by_host_and_port_or_by_a_uri(keys, uri):
    assert make_address(**keys).uri == uri


def test_users_are_looked_up_where_mongodbs_own_tools_look():
    assert make_address(uri="mongodb://ada@h/texts").auth_source == "texts"
    assert make_address(uri="mongodb://ada@h/texts?authSource=staff").auth_source == "staff"
    assert make_address(uri="mongodb://ada@h/texts", auth_database="other").auth_source == "other"
    assert make_address(host="h", user="ada").auth_source == "admin"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("mongodb://h/texts", False),
        ("mongodb://ada@h/texts", False),
        ("mongodb://h:27017,g:27018/texts", False),
        ("mongodb://ada:x@h", True),
        ("mongodb://ada:p@ss@h", True),
        ("mongodb://ada:p/ss@h", True),
        ("mongodb://ada:p?ss@h", True),
        ("mongodb://h/?tlsCertificateKeyFilePassword=x", True),
        ("mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:x", True),
    ],
)
def test_a_password_is_seen_wherever_a_uri_hides_it(uri, expected):
    assert holds_password(uri) is expected


@given(st.text(min_size=1).filter(lambda text: text.strip()))
def test_no_message_of_a_refused_uri_holds_its_password(password):
    secret = f"#{password}#"  # so that it is no part of the message by chance
    with pytest.raises(ConfigError) as caught:
        refuse_password_words([f"mongodb://ada:{secret}@localhost"])
    assert secret not in str(caught.value)


def test_a_password_is_taken_out_of_foreign_messages_in_every_spelling():
    assert redact("a p:w b p%3Aw c", "p:w") == "a *** b *** c"
    assert redact("p:w", None) == "p:w"


def test_a_user_without_a_password_and_nobody_to_ask_is_an_error(monkeypatch):
    monkeypatch.delenv("MONGO_PASSWORD", raising=False)
    with pytest.raises(ConfigError, match="no password for user 'ada'; set MONGO_PASSWORD, or use --mongo_uri_file"):
        find_password(make_address(host="h", user="ada"))
    monkeypatch.setenv("MONGO_PASSWORD", "x")
    assert find_password(make_address(host="h", user="ada")) == "x"
    assert find_password(make_address(host="h")) is None
