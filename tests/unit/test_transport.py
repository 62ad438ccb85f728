import pytest
from kombu.exceptions import OperationalError
from kombu.utils import functional

from workers.transport import RECONNECT_LONGEST_SECONDS, Connection


def test_a_lost_broker_is_tried_again_soon_however_long_it_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "sleep", lambda seconds: None)
    pauses: list[float] = []
    # Port 1 of this machine: nobody listens there.
    connection = Connection("redis://127.0.0.1:1/0")  # type: ignore[no-untyped-call]
    with connection, pytest.raises(OperationalError):
        connection.ensure_connection(lambda error, pause: pauses.append(pause), 20)
    assert len(pauses) == 20
    assert max(pauses) == RECONNECT_LONGEST_SECONDS
