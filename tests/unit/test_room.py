"""Free memory: what the system, control groups of both versions and limits leave, the least of them."""

import resource

import pytest
import torch

from unitgain.room import free_memory

MIB = 2**20


def files(root, **texts):
    for name, text in {"proc/meminfo": "MemTotal: 8192 kB\nMemAvailable:   4096 kB\n", **texts}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(folder, limit, used, cached, names=("memory.max", "memory.current", "inactive_file")):
    texts = (f"{limit}\n", f"{used}\n", f"anon 1\n{names[2]} {cached}\n")
    return {f"{folder}/{name}": text for name, text in zip((*names[:2], "memory.stat"), texts, strict=True)}


@pytest.fixture(autouse=True)
def _no_limit(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_what_the_system_has_available(tmp_path):
    assert free_memory("cpu", files(tmp_path)).bytes == 4 * MIB
    assert free_memory("cpu", tmp_path / "nothing is known").bytes > 2**60


def test_groups_of_version_2_and_those_above(tmp_path):
    inner, outer = "sys/fs/cgroup/job/step", "sys/fs/cgroup/job"
    root = files(tmp_path, **{"proc/self/cgroup": "0::/job/step\n"}, **group(inner, "max", MIB, 0))
    assert free_memory("cpu", root).bytes == 4 * MIB
    files(root, **group(outer, 3 * MIB, 2 * MIB, MIB // 2))
    found = free_memory("cpu", root)
    assert found.bytes == 3 * MIB // 2 and "control group" in found.source
    files(root, **group(inner, MIB, 2 * MIB, 0))
    assert free_memory("cpu", root).bytes == 0


@pytest.mark.parametrize("path", ["/docker/of-the-host", "/"])
def test_groups_of_version_1_in_a_container(tmp_path, path):
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    top = group("sys/fs/cgroup/memory", 2 * MIB, MIB, MIB // 4, names)
    root = files(tmp_path, **{"proc/self/cgroup": f"4:cpu:/x\n3:memory:{path}\n0::/\n"}, **top)
    assert free_memory("cpu", root).bytes == 5 * MIB // 4
    files(root, **group("sys/fs/cgroup/memory", 9223372036854771712, MIB, 0, names))
    assert free_memory("cpu", root).bytes == 4 * MIB


def test_the_address_space(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2**31, 2**31))
    root = files(tmp_path, **{"proc/self/statm": "1024 1 1 1 0 1 0\n", "proc/meminfo": "MemAvailable: 99999999 kB\n"})
    found = free_memory(torch.device("cpu"), root)
    assert 2**30 < found.bytes < 2**31 - 2**22 and "ulimit" in found.source
