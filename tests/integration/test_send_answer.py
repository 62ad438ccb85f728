"""What comes of a webhook's POST to receivers that are slow, endless, broken, or up to something."""

from __future__ import annotations

import gzip
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.network import lead, post
from tests.raw_receiver import Deed, RawReceiver, answer, read_request
from workers.dial import MOST_BYTES
from workers.send import Sender, read_retry_after

Receive = Callable[..., RawReceiver]
MakeSender = Callable[..., Sender]


def drip(start: bytes, more: bytes, asked: bool = True) -> Deed:
    def deed(connection: socket.socket) -> None:
        if asked:
            read_request(connection)
        connection.sendall(start)
        while True:
            connection.sendall(more)
            time.sleep(0.02)

    return deed


@pytest.mark.parametrize(
    ("start", "more"),
    [(b"", b""), (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"), (b"HTTP/1.1 200 OK\r\na: ", b"b"), (b"HTTP/1.1 2", b"0")],
)
def test_headers_that_drip_are_cut_in_time(
    start: bytes, more: bytes, receive: Receive, make_sender: MakeSender
) -> None:
    outcome = post(make_sender(lead(receive(drip(start, more))), total_seconds=0.4))
    assert outcome.error == "timeout: no answer within 0.4 s"
    assert outcome.seconds < 1.5


@pytest.mark.parametrize(
    "head", [b"content-length: 9999\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n4000\r\n", b"\r\n"]
)
def test_a_body_that_drips_is_cut_in_time_and_its_status_counts(
    head: bytes, receive: Receive, make_sender: MakeSender
) -> None:
    receiver = receive(drip(b"HTTP/1.1 200 OK\r\n" + head, b"z"))
    outcome = post(make_sender(lead(receiver), total_seconds=0.4))
    assert (outcome.status, set(outcome.answer)) == (200, {"z"})
    assert 0.3 < outcome.seconds < 1.5


def test_a_receiver_that_does_not_read_is_cut_in_time(receive: Receive, make_sender: MakeSender) -> None:
    receiver = receive(lambda connection: threading.Event().wait(3) and None)
    outcome = post(make_sender(lead(receiver), total_seconds=0.4), body=bytes(32_000_000))
    assert outcome.error == "timeout: no answer within 0.4 s"
    assert outcome.seconds < 1.5


@pytest.mark.parametrize("more", [b"", b"\x00"])
def test_a_tls_handshake_that_drips_is_cut_in_time(more: bytes, receive: Receive, make_sender: MakeSender) -> None:
    network = lead(receive(drip(b"\x16\x03\x03\x40\x00", more, asked=False)))
    outcome = post(make_sender(network, connect_seconds=0.3), "https://hook.test/")
    assert outcome.error == "tls: no answer in time"
    assert outcome.seconds < 1.5


def endless(start: bytes, more: bytes) -> Deed:
    def deed(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(start)
        while True:
            connection.sendall(more)

    return deed


@pytest.mark.parametrize(
    ("start", "more", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"z" * 9999, 200),
        (b"HTTP/1.1 500 No\r\ncontent-length: 1000000000\r\n\r\n", b"z" * 9999, 500),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nz\r\n", 200),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n", b"z" * 9999, 200),
        (b"HTTP/1.1 200 OK\r\na: ", b"z" * 9999, None),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 999, None),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 99, None),
    ],
)
def test_an_answer_is_read_to_64_kb(
    start: bytes, more: bytes, status: int | None, receive: Receive, make_sender: MakeSender
) -> None:
    network = lead(receive(endless(start, more)))
    outcome = post(make_sender(network))
    assert (outcome.status, outcome.answer) == (status, "z" * 1000 if status else "")
    assert status or outcome.error == "answer: its headers are longer than 65,536 bytes"
    assert (network.received_bytes, network.open) == (MOST_BYTES, 0)


def test_an_answer_is_shown_as_it_came(receive: Receive, make_sender: MakeSender) -> None:
    body = gzip.compress(b"z" * 9999)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    outcome = post(make_sender(lead(receive(answer(head + body)))))
    assert outcome.answer.startswith("\\x1f\ufffd")
    assert outcome.answer.isprintable()


def reset(connection: socket.socket) -> None:
    read_request(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    ("deed", "error"),
    [
        (reset, "answer: connection reset by peer"),
        (read_request, "answer: Server disconnected without sending a response."),
        (answer(b"SSH-2.0-OpenSSH_9\r\n\r\n"), "answer: illegal status line: bytearray(b'SSH-2.0-OpenSSH_9')"),
        (answer(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n"), "answer: Received server _SWITCH_UPGRADE event"),
        (answer(b"HTTP/1.1 200 OK\r\ncontent-length: a\r\n\r\n"), "answer: bad Content-Length"),
    ],
)
def test_what_is_no_answer_is_an_error(deed: Deed, error: str, receive: Receive, make_sender: MakeSender) -> None:
    receiver = receive(deed)
    assert (post(make_sender(lead(receiver))).error or "").startswith(error)
    assert receiver.connections == 1


def test_an_answer_before_the_body_is_read_counts(receive: Receive, make_sender: MakeSender) -> None:
    def deed(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")  # and close: it reads no more

    assert post(make_sender(lead(receive(deed))), body=bytes(9_000_000)).status == 413


@pytest.mark.parametrize(
    "rest", [b"content-length: 9\r\n\r\nso", b"transfer-encoding: chunked\r\n\r\n2\r\nso\r\nzz\r\n"]
)
@pytest.mark.parametrize("linger", [False, True])
def test_an_answer_that_breaks_off_has_its_status(
    rest: bytes, linger: bool, receive: Receive, make_sender: MakeSender
) -> None:
    def deed(connection: socket.socket) -> None:
        answer(b"HTTP/1.1 200 OK\r\n" + rest)(connection)
        if linger:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    outcome = post(make_sender(lead(receive(deed))))
    assert (outcome.status, outcome.answer) == (200, "so")


def test_a_kept_connection_gives_64_kb_for_each_answer(receive: Receive, make_sender: MakeSender) -> None:
    network = lead(
        receive(answer(b"HTTP/1.1 200 OK\r\ncontent-length: 40000\r\n\r\n" + "é".encode() * 20_000, times=3))
    )
    sender = make_sender(network)
    assert [post(sender).answer for _ in range(3)] == ["é" * 500] * 3
    assert len(network.dialed) == 1


any_bytes = st.lists(
    st.binary(max_size=9)
    | st.sampled_from(
        b"HTTP/1.1 |HTTP/1.0 |200|101|999| OK|\r\n|\r\n\r\n|content-length: |9|transfer-encoding: chunked|a: b|0|\n|"
        b"retry-after: |connection: |close|upgrade|Sun, 06 Nov 1994 08:49:37 GMT".split(b"|")
    ),
    max_size=12,
).map(b"".join)


def test_nothing_a_receiver_says_raises(receive: Receive, make_sender: MakeSender) -> None:
    said = b""
    sender = make_sender(lead(receive(lambda connection: answer(said)(connection))))

    @settings(max_examples=150, deadline=None)
    @given(any_bytes | any_bytes.map(b"HTTP/1.1 200 OK\r\n".__add__))
    def say(text: bytes) -> None:
        nonlocal said
        said = text
        outcome = post(sender)
        assert (outcome.answer + (outcome.error or "")).isprintable()
        assert len(outcome.answer) <= 1000

    say()


NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
        ("Sun Nov  6 08:50:37 1994", 60),
        ("Sun, 06 Nov 1994 07:00:00 GMT", 0),
        *((value, None) for value in ("", "-1", "1.5", "soon", "9" * 99, "١", "1e3", "Sun, 99 Nov 1994 08:50:37 GMT")),
    ],
)
def test_retry_after_is_read_in_all_its_forms(
    value: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")  # no clock of this machine counts
        time.tzset()
        assert read_retry_after(value, NOW) == seconds
    time.tzset()


def test_an_outcome_says_when_to_come_again(receive: Receive, make_sender: MakeSender) -> None:
    receiver = receive(answer(b"HTTP/1.1 503 No\r\nRetry-After: 7\r\ncontent-length: 0\r\n\r\n"))
    outcome = post(make_sender(lead(receiver)))
    assert (outcome.status, outcome.retry_after_seconds) == (503, 7)
