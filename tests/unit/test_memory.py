import time
from dataclasses import replace
from pathlib import Path

import pytest

from nowserving.errors import SettingsError
from workers.memory import FileProbe, HostProbe, Memory, make_probe

MEMINFO = "MemTotal:  1000 kB\nMemFree:  10 kB\nMemAvailable:  400 kB\n"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def read_host(tmp_path: Path, groups: str) -> Memory:
    """All but what is this process's own."""
    write(tmp_path, meminfo=MEMINFO, groups=groups)
    return replace(HostProbe(tmp_path / "meminfo", tmp_path / "groups", tmp_path / "fs").read(), own_bytes=None)


def test_the_host_by_what_is_available(tmp_path: Path) -> None:
    assert read_host(tmp_path, "0::/\n") == Memory(600 * 1024, 400 * 1024, 1000 * 1024)


def test_a_cgroup_of_version_2_without_its_droppable_cache(tmp_path: Path) -> None:
    pod = tmp_path / "fs/kubepods/pod"
    write(pod, memory__max="500000\n", memory__current="300000\n", memory__stat="anon 1\ninactive_file 50000\n")
    write(pod / "container", memory__max="max\n", memory__current="200000\n", memory__stat="inactive_file 0\n")
    assert read_host(tmp_path, "0::/kubepods/pod/container\n") == Memory(250000, 250000, 500000)


def test_inside_a_container_the_cgroup_is_the_root(tmp_path: Path) -> None:
    write(tmp_path / "fs", memory__max="500000", memory__current="100000", memory__stat="inactive_file 0\n")
    assert read_host(tmp_path, "0::/../../elsewhere\n") == Memory(100000, 400000, 500000)


def test_a_cgroup_of_version_1(tmp_path: Path) -> None:
    files = {"memory__limit_in_bytes": "600000", "memory__usage_in_bytes": "300000"}
    write(tmp_path / "fs/memory/job", **files, memory__stat="inactive_file 5\ntotal_inactive_file 100000\n")
    assert read_host(tmp_path, "5:cpu:/\n4:memory:/job\n0::/\n") == Memory(200000, 400000, 600000)


def test_a_limit_above_the_host_is_none(tmp_path: Path) -> None:
    write(tmp_path / "fs", memory__max=str(2**62), memory__current="5", memory__stat="inactive_file 0\n")
    assert read_host(tmp_path, "0::/\n").total_bytes == 1000 * 1024


def test_a_file_says_what_is_used(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    probe = make_probe(f"file:{path}")
    assert probe.read().used_bytes == 0
    path.write_text("30 100\n")
    assert probe.read() == Memory(30, 70, 100)
    path.write_text("")  # being rewritten
    assert probe.read() == Memory(30, 70, 100)
    path.write_text("130 100")
    assert probe.read() == Memory(130, 0, 100)
    path.unlink()
    assert probe.read() == Memory(0, 100, 100)


def test_this_machine_is_read_in_less_than_a_millisecond() -> None:
    for spec in ("auto", "host"):
        probe = make_probe(spec)
        memory = probe.read()
        assert 0 < (memory.own_bytes or 0) < memory.used_bytes < memory.total_bytes
        spent = []
        for _ in range(50):
            began = time.perf_counter()
            probe.read()
            spent.append(time.perf_counter() - began)
        assert min(spent) < 0.001


def test_a_worker_takes_of_its_share_whatever_others_use_of_theirs() -> None:
    alone = Memory(used_bytes=300, free_bytes=700, total_bytes=1000, own_bytes=300)
    assert alone.room_bytes(450, None, 0) == 150
    beside_another = Memory(used_bytes=750, free_bytes=250, total_bytes=1000, own_bytes=300)
    assert beside_another.room_bytes(450, None, 0) == 150


def test_where_others_have_taken_of_its_share_there_is_no_more_than_what_is_free_beside_a_step() -> None:
    memory = Memory(used_bytes=900, free_bytes=100, total_bytes=1000, own_bytes=300)
    assert memory.room_bytes(900, None, 0) == 100
    assert memory.room_bytes(900, None, 70) == 30
    assert memory.room_bytes(900, None, 120) == -20


def test_a_limit_is_on_what_all_use_together() -> None:
    memory = Memory(used_bytes=600, free_bytes=400, total_bytes=1000, own_bytes=100)
    assert memory.room_bytes(900, 650, 0) == 50
    assert memory.room_bytes(900, 500, 0) == -100


def test_a_probe_that_does_not_know_whose_it_is_blames_this_process() -> None:
    assert Memory(used_bytes=600, free_bytes=400, total_bytes=1000).room_bytes(900, None, 0) == 300


class Fixed:
    def read(self) -> Memory:
        return Memory(1, 2, 3)


def test_a_probe_of_the_users_own() -> None:
    assert make_probe(f"{__name__}:Fixed").read() == Memory(1, 2, 3)
    assert isinstance(make_probe("file:/nowhere"), FileProbe)
    for wrong in ("gpu", "", "no_such_module:Probe", f"{__name__}:Missing"):
        with pytest.raises(SettingsError):
            make_probe(wrong)
