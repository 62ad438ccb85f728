from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nowserving.cli.failure import StartError
from nowserving.cli.webhook_secret import SECRET_FILE, with_secret
from nowserving.secret import check_secret, new_secret
from nowserving.settings import Settings, load_settings


def shown(settings: Settings) -> list[str]:
    return [secret.get_secret_value() for secret in settings.webhook_secret]


def test_a_secret_that_is_set_is_left_alone(tmp_path: Path) -> None:
    settings = load_settings(webhook_secret=new_secret(), data_dir=tmp_path)
    assert with_secret(settings) == (settings, None)
    assert list(tmp_path.iterdir()) == []


def test_a_secret_is_made_once_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "data")
    first, path = with_secret(settings)
    again, _ = with_secret(settings)
    assert path == tmp_path / "data" / SECRET_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [path.read_text().strip()] == shown(first) == shown(again)
    assert check_secret(shown(first)[0])
    assert [file.name for file in path.parent.iterdir()] == [SECRET_FILE]


def test_all_who_make_it_at_once_have_the_same(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: shown(with_secret(settings)[0])[0], range(32)))
    assert len(set(made)) == 1
    assert [file.name for file in tmp_path.iterdir()] == [SECRET_FILE]


@pytest.mark.parametrize("between", [",", "\n"])
def test_while_it_is_changed_the_file_may_hold_two(tmp_path: Path, between: str) -> None:
    both = [new_secret(), new_secret()]
    (tmp_path / SECRET_FILE).write_text(between.join(both) + "\n")
    assert shown(with_secret(load_settings(data_dir=tmp_path))[0]) == both


@pytest.mark.parametrize("content", ["", "hunter2", "whsec_AAAA", " ".join([new_secret()] * 3)])
def test_a_file_with_something_else_is_named_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / SECRET_FILE
    path.write_text(content)
    with pytest.raises(StartError, match=str(path)) as caught:
        with_secret(load_settings(data_dir=tmp_path))
    assert "hunter2" not in str(caught.value)
    assert path.read_text() == content


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"file.*cannot be used"):
        with_secret(load_settings(data_dir=tmp_path / "file"))
