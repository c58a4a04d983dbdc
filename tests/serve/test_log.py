import logging

import httpx

from sft.serve.log import MAX_KINDS, OneLinePerKind, one_line_per_kind
from tests.serve.conftest import KEY

logger = logging.getLogger("sft.serve")


def test_a_kind_of_trouble_is_one_line_however_often_it_comes(capsys):
    with one_line_per_kind():
        for number in range(1000):
            logger.warning("more than %d connections", number)
            logging.getLogger("asyncio").error(f"socket.accept() out of system resource\nsocket: {number}")
    assert capsys.readouterr().err.splitlines() == ["more than 0 connections", "socket.accept() out of system resource"]


def test_after_a_minute_it_is_said_again_with_the_number_of_those_left_out(capsys):
    handler = OneLinePerKind(period_s=0.0)
    record = logging.LogRecord("sft.serve", logging.WARNING, "", 0, "no room", (), None)
    handler.period_s = 60
    for _ in range(4):
        handler.emit(record)
    handler.period_s = 0
    handler.emit(record)
    assert capsys.readouterr().err.splitlines() == ["no room", "no room (3 more like it since this was last logged)"]


def test_a_fault_of_the_code_comes_with_its_traceback_once(capsys):
    with one_line_per_kind():
        for _ in range(5):
            try:
                _ = 1 / 0
            except ZeroDivisionError as error:
                logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=error)
    said = capsys.readouterr().err
    assert said.startswith("Exception in ASGI application: ZeroDivisionError: division by zero\nTraceback")
    assert said.count("ZeroDivisionError") == 2


def test_the_number_of_kinds_is_bounded(capsys):
    handler = OneLinePerKind()
    for number in range(10 * MAX_KINDS):
        handler.emit(logging.LogRecord("asyncio", logging.ERROR, "", 0, f"kind {number}", (), None))
    assert len(capsys.readouterr().err.splitlines()) == MAX_KINDS + 1


def test_a_log_that_cannot_be_written_stops_nothing(monkeypatch):
    def refuse(*_):
        raise BrokenPipeError

    monkeypatch.setattr("sft.serve.log.say", refuse)
    with one_line_per_kind():
        logger.warning("nobody reads this")


def test_requests_that_are_refused_unread_share_a_line(server, capsys):
    for _ in range(50):
        answer = httpx.post(
            f"{server.url}/v1/chat/completions", content=b"{", headers={"Authorization": f"Bearer {KEY}"}
        )
        assert answer.status_code == 415
    assert capsys.readouterr().err.splitlines() == ["POST /v1/chat/completions 415"]
