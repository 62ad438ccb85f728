"""To whom a webhook's POST goes, and over how many connections: a small Internet on loopback."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import pytest

from nowserving.target import Policy, Resolver
from tests.authority import Authority
from tests.network import OTHER, PRIVATE, PUBLIC, Network, lead, post
from tests.raw_receiver import OK, RawReceiver, answer, read_request
from workers.dial import MOST_ADDRESSES
from workers.send import LOOKUPS_A_CONNECTION, Sender

Receive = Callable[..., RawReceiver]
MakeSender = Callable[..., Sender]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_the_request_is_what_was_asked_for_and_no_more(receive: Receive, make_sender: MakeSender) -> None:
    seen: list[tuple[str, bytes]] = []

    def deed(connection: socket.socket) -> None:
        for _ in range(2):
            seen.append(read_request(connection))
            connection.sendall(b"HTTP/1.1 202 Accepted\r\nset-cookie: a=b\r\ncontent-length: 6\r\n\r\nh\x1b[2Ji")

    network = lead(receive(deed))
    sender = make_sender(network)
    outcomes = [post(sender, body=b'{"type": "job.succeeded"}') for _ in range(2)]
    assert [(outcome.status, outcome.answer) for outcome in outcomes] == [(202, "h\\x1b[2Ji")] * 2
    assert 0 < outcomes[0].seconds < 2
    head, body = seen[0]
    assert seen[1] == seen[0]  # no cookie
    assert head.lower().split("\r\n") == [
        "post /x?y=1 http/1.1",
        "host: hook.test",
        "webhook-id: dlv_1",
        "user-agent: nowserving",
        "accept: */*",
        "accept-encoding: identity",
        "content-length: 25",
    ]
    assert body == b'{"type": "job.succeeded"}'
    assert (network.looked_up, network.dialed) == (["hook.test"], [PUBLIC])  # the connection was kept


def test_a_name_that_becomes_a_loopback_address_reaches_nothing(
    receive: Receive, make_sender: MakeSender, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = authority.server("DNS:example.com")
    public, private = receive(answer(), context), receive(answer(), context)
    network = Network({"example.com": [[PUBLIC], [PRIVATE]]}, {PUBLIC: public.port, PRIVATE: private.port})
    sender = make_sender(network, allow=(), ssl_context=authority.client())
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real(str(ip_address(host)), *rest, **more))
    assert post(sender, "https://example.com/").status == 200
    assert (network.looked_up, network.dialed) == (["example.com"], [PUBLIC])
    refused = f"refused: {PRIVATE} is a loopback address; NOWSERVING_WEBHOOK_ALLOW can allow it"
    for times in (2, 3):
        assert post(sender, "https://example.com/").error == refused
        assert (network.looked_up, network.dialed) == (["example.com"] * times, [PUBLIC])
    assert (public.connections, private.connections) == (1, 0)


@pytest.mark.parametrize(
    "bad", [PRIVATE, "10.0.0.1", "169.254.169.254", "::ffff:101:101", "64:ff9b::7f00:1", "fe80::1%2"]
)
def test_one_bad_address_among_good_ones_is_enough(bad: str, receive: Receive, make_sender: MakeSender) -> None:
    receiver = receive(answer())
    network = Network({"example.com": [[PUBLIC, bad], [bad, PUBLIC]]}, {PUBLIC: receiver.port, bad: receiver.port})
    sender = make_sender(network)
    for _ in range(2):
        assert (post(sender, "https://example.com/").error or "").startswith(f"refused: {ip_address(bad)} is a")
    assert (network.dialed, receiver.connections) == ([], 0)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("https://127.0.0.1/", "loopback"),
        ("http://example.com/", "https"),
        ("https://u@a/", "user"),
        ("gopher://a/", "with"),
    ],
)
def test_what_is_refused_at_once_is_not_looked_up(url: str, word: str, make_sender: MakeSender) -> None:
    network = Network({}, {})
    error = post(make_sender(network), url).error or ""
    assert error.startswith("refused: ")
    assert word in error
    assert network.looked_up == network.dialed == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_not_followed(status: int, receive: Receive, make_sender: MakeSender) -> None:
    private = receive(answer())
    location = f"location: http://127.0.0.1:{private.port}/\r\n".encode()
    receiver = receive(answer(b"HTTP/1.1 %d Moved\r\n%bcontent-length: 0\r\n\r\n" % (status, location)))
    assert post(make_sender(lead(receiver), allow=("hook.test", PRIVATE))).status == status
    assert private.connections == 0


def test_the_environments_proxies_are_not_asked(
    receive: Receive, make_sender: MakeSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = receive(answer())
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{proxy.port}")
    assert post(make_sender(lead(receive(answer())))).status == 200
    assert proxy.connections == 0


def test_tls_asks_for_the_names_certificate(receive: Receive, make_sender: MakeSender, authority: Authority) -> None:
    asked: list[str | None] = []
    context = authority.server("DNS:example.com")
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    network = lead(receive(answer(), context), "example.com", "evil.example")
    sender = make_sender(network, ssl_context=authority.client())
    assert post(sender, "https://example.com/").status == 200
    assert "Hostname mismatch" in (post(sender, "https://evil.example/").error or "")
    assert asked == ["example.com", "evil.example"]
    assert "certificate" in (post(make_sender(network), "https://example.com/").error or "")  # certifi knows it not
    at_address = Network({}, {PUBLIC: receive(answer(), authority.server(f"IP:{PUBLIC}")).port})
    assert post(make_sender(at_address, ssl_context=authority.client()), f"https://{PUBLIC}/").status == 200


def test_a_kept_connection_that_has_ended_is_replaced(receive: Receive, make_sender: MakeSender) -> None:
    def deed(connection: socket.socket) -> None:
        answer()(connection)
        read_request(connection)  # and close without a word

    receiver = receive(deed)
    sender = make_sender(lead(receiver))
    assert [post(sender).status for _ in range(3)] == [200, 200, 200]
    assert receiver.connections == 3


def test_a_kept_connection_that_says_something_unasked_is_not_used(
    receive: Receive, make_sender: MakeSender, eventually: Callable[..., None]
) -> None:
    first_is_read = threading.Event()

    def deed(connection: socket.socket) -> None:
        answer()(connection)
        if first_is_read.wait(5):
            connection.sendall(b"HTTP/1.1 408 Too Slow\r\ncontent-length: 0\r\n\r\n")
        connection.recv(1)

    network = lead(receive(deed))
    sender = make_sender(network)
    assert post(sender).status == 200
    first_is_read.set()
    last = network.last
    assert last
    eventually(lambda: select.select([last], [], [], 0)[0])
    assert post(sender).status == 200


def test_closing_leaves_no_socket_open_but_those_in_use(receive: Receive, make_sender: MakeSender) -> None:
    asked, answered = threading.Event(), threading.Event()

    def deed(connection: socket.socket) -> None:
        read_request(connection)
        asked.set()
        answered.wait(5)
        connection.sendall(OK)
        connection.recv(1)

    network = lead(receive(deed))
    sender = make_sender(network)
    with ThreadPoolExecutor(1) as threads:
        outcome = threads.submit(post, sender)
        assert asked.wait(5)
        sender.close()
        assert network.open == 1
        answered.set()
        assert outcome.result().status == 200
    assert network.open == 0


def test_an_address_that_refuses_or_is_silent_gives_way_to_the_next(receive: Receive, make_sender: MakeSender) -> None:
    network = lead(receive(answer()))
    network.names["hook.test"] = [[OTHER, PUBLIC]]
    assert post(make_sender(network)).status == 200
    assert network.dialed == [OTHER, PUBLIC]
    network.names["hook.test"] = [[*(f"1.0.0.{number}" for number in range(MOST_ADDRESSES)), PUBLIC]]
    assert post(make_sender(network)).error == "connect: no route to host"
    network.names["hook.test"] = [[OTHER, PUBLIC]]

    def dial(address: str, port: int, seconds: float) -> socket.socket:
        if address == OTHER:
            time.sleep(seconds)
            raise TimeoutError
        return network.dial(address, port, seconds)

    assert post(make_sender(network, dial=dial, connect_seconds=0.4)).status == 200


def test_without_a_connection_the_error_says_why(make_sender: MakeSender) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]
    network = Network({"hook.test": [[PUBLIC]], "lost.test": [[OTHER]], "none.test": [[]]}, {PUBLIC: closed})
    sender = make_sender(network, allow=("hook.test", "lost.test", "none.test", "nowhere.test"))
    assert post(sender).error == "connect: connection refused"
    assert post(sender, "http://lost.test/").error == "connect: no route to host"
    assert post(sender, "http://none.test/").error == "connect: the name has no address"
    assert post(sender, "http://nowhere.test/").error == "dns: name or service not known"

    def resolve(host: str, port: int) -> Sequence[str]:
        raise OSError(1, "\x1b[2Jodd")

    assert post(make_sender(network, resolver=resolve)).error == "dns: \\x1b[2jodd"


@pytest.fixture
def silence() -> Iterator[threading.Event]:
    """Not set while some names are looked up in vain."""
    event = threading.Event()
    yield event
    event.set()


def silent(network: Network, silence: threading.Event) -> Resolver:
    """A resolver that has no answer for names that begin with dead, till the silence ends."""

    def resolve(host: str, port: int) -> Sequence[str]:
        found = network.resolve(host, port)
        if host.startswith("dead"):
            silence.wait()
        return found

    return resolve


def test_a_name_whose_servers_are_silent_takes_one_thread_for_all(
    receive: Receive, make_sender: MakeSender, silence: threading.Event
) -> None:
    names = ("dead.test", "live.test")
    network = lead(receive(answer()), *names)
    sender = make_sender(network, allow=names, resolver=silent(network, silence), connections=1, connect_seconds=0.1)
    for _ in range(LOOKUPS_A_CONNECTION + 1):
        outcome = post(sender, "http://dead.test/")
        assert outcome.error == "dns: no answer in time"
        assert outcome.seconds < 1
    assert network.looked_up == ["dead.test"]
    assert post(sender, "http://live.test/").status == 200


def test_look_ups_are_bounded_and_go_on_when_names_are_answered(
    receive: Receive, make_sender: MakeSender, silence: threading.Event, eventually: Callable[..., None]
) -> None:
    dead = [f"dead-{number}.test" for number in range(LOOKUPS_A_CONNECTION)]
    network = lead(receive(answer()), *dead, "live.test")
    sender = make_sender(
        network, allow=network.names, resolver=silent(network, silence), connections=1, connect_seconds=0.1
    )
    for name in (*dead, "live.test"):
        assert post(sender, f"http://{name}/").error == "dns: no answer in time"
    assert network.looked_up == dead
    silence.set()
    eventually(lambda: post(sender, "http://live.test/").status == 200)


def test_never_are_more_sockets_open_than_connections(receive: Receive, make_sender: MakeSender) -> None:
    def deed(connection: socket.socket) -> None:
        while True:
            read_request(connection)
            time.sleep(0.002)
            connection.sendall(OK)

    names = [f"host-{number}.test" for number in range(12)]
    network = lead(receive(deed), *names)
    sender = make_sender(network, allow=names, connections=6, total_seconds=30)
    with ThreadPoolExecutor(50) as threads:
        outcomes = list(threads.map(lambda number: post(sender, f"http://{names[number % 12]}/"), range(400)))
    assert {outcome.status for outcome in outcomes} == {200}
    assert network.most_open == 6
    sender.close()
    assert network.open == 0


def test_the_systems_own_names_and_sockets_serve_it(receive: Receive) -> None:
    receiver = receive(answer())
    sender = Sender(Policy(["localhost"], (443,)), connect_seconds=2, total_seconds=5, connections=1)
    assert post(sender, f"http://localhost:{receiver.port}/").status == 200
    sender.close()
