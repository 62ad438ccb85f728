import time
from pathlib import Path

import pytest

from nowserving.errors import SettingsError
from workers.memory import FileProbe, HostProbe, Memory, make_probe

MEMINFO = "MemTotal:  1000 kB\nMemFree:  10 kB\nMemAvailable:  400 kB\n"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def host_probe(tmp_path: Path, groups: str) -> HostProbe:
    write(tmp_path, meminfo=MEMINFO, groups=groups)
    return HostProbe(tmp_path / "meminfo", tmp_path / "groups", tmp_path / "fs")


def test_the_host_by_what_is_available(tmp_path: Path) -> None:
    assert host_probe(tmp_path, "0::/\n").read() == Memory(600 * 1024, 400 * 1024, 1000 * 1024)


def test_a_cgroup_of_version_2_without_its_droppable_cache(tmp_path: Path) -> None:
    pod = tmp_path / "fs/kubepods/pod"
    write(pod, memory__max="500000\n", memory__current="300000\n", memory__stat="anon 1\ninactive_file 50000\n")
    write(pod / "container", memory__max="max\n", memory__current="200000\n", memory__stat="inactive_file 0\n")
    assert host_probe(tmp_path, "0::/kubepods/pod/container\n").read() == Memory(250000, 250000, 500000)


def test_inside_a_container_the_cgroup_is_the_root(tmp_path: Path) -> None:
    write(tmp_path / "fs", memory__max="500000", memory__current="100000", memory__stat="inactive_file 0\n")
    assert host_probe(tmp_path, "0::/../../elsewhere\n").read() == Memory(100000, 400000, 500000)


def test_a_cgroup_of_version_1(tmp_path: Path) -> None:
    files = {"memory__limit_in_bytes": "600000", "memory__usage_in_bytes": "300000"}
    write(tmp_path / "fs/memory/job", **files, memory__stat="inactive_file 5\ntotal_inactive_file 100000\n")
    assert host_probe(tmp_path, "5:cpu:/\n4:memory:/job\n0::/\n").read() == Memory(200000, 400000, 600000)


def test_a_limit_above_the_host_is_none(tmp_path: Path) -> None:
    write(tmp_path / "fs", memory__max=str(2**62), memory__current="5", memory__stat="inactive_file 0\n")
    assert host_probe(tmp_path, "0::/\n").read().total_bytes == 1000 * 1024


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
        assert 0 < memory.used_bytes < memory.total_bytes
        spent = []
        for _ in range(50):
            began = time.perf_counter()
            probe.read()
            spent.append(time.perf_counter() - began)
        assert min(spent) < 0.001


class Fixed:
    def read(self) -> Memory:
        return Memory(1, 2, 3)


def test_a_probe_of_the_users_own() -> None:
    assert make_probe(f"{__name__}:Fixed").read() == Memory(1, 2, 3)
    assert isinstance(make_probe("file:/nowhere"), FileProbe)
    for wrong in ("gpu", "", "no_such_module:Probe", f"{__name__}:Missing"):
        with pytest.raises(SettingsError):
            make_probe(wrong)
