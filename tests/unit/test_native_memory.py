"""Memory that images are lent: never two at a time, used again, and given back when nobody wants it."""

import copy
import gc
import os
import platform
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import trained

from unitgain.arch import NetworkSpec
from unitgain.infer import prepare
from unitgain.native import images, memory

SIZE = (2, 64, 64, 64)  # 2 MiB in float32


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(memory, "_pool", memory._Pool())


def free():
    """Bytes of each block that nobody uses."""
    return sorted(len(block.memory) for block in memory._pool.free)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [SIZE, (1, 3, 5, 7), (0, 4, 4, 4)])
def test_images_are_like_any_tensor(dtype, size):
    x = images(size, dtype)
    assert (x.shape, x.dtype, x.device.type) == (size, dtype, "cpu")
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x.data_ptr() % 64 == 0
    x.fill_(2)
    assert (x + x == 4).all()
    assert torch.equal(copy.deepcopy(x), x)


def test_memory_is_used_again_once_nothing_refers_to_it():
    x = images(SIZE, torch.float32)
    where, corner = x.data_ptr(), x[1, :3, 2:4]
    corner.fill_(7)
    del x
    gc.collect()
    other = images(SIZE, torch.float32)  # what is left of the first is a view
    assert other.data_ptr() != where
    other.zero_()
    assert (corner == 7).all()
    del corner
    assert free() == [2**21]
    again = images((2, 64, 64, 32), torch.float32)
    assert again.data_ptr() == where
    assert free() == []


def test_half_a_block_is_enough_and_less_is_not():
    images(SIZE, torch.float32)
    images((1, 64, 64, 64), torch.float32)
    assert free() == [2**21]
    kept = [images((8, 64, 64, 64), torch.float32), images(SIZE, torch.float32)]
    kept.clear()
    assert free() == [2**21, 2**23]
    x = images((1, 64, 64, 65), torch.float32)  # in the smallest that is large enough
    assert free() == [2**23]
    del x


def test_what_nobody_wants_is_given_back(monkeypatch):
    monkeypatch.setattr(memory, "FORGOTTEN", 5)
    images((8, 64, 64, 64), torch.float32)
    for _ in range(5):
        images(SIZE, torch.float32)
        assert free() == [2**21, 2**23]
    images(SIZE, torch.float32)
    assert free() == [2**21]


def test_threads_share_what_is_free_and_nothing_else():
    """Many at once: what a thread writes stays as it is while it holds it, and all of it comes back."""

    def draw(number):
        for turn in range(200):
            x = images(SIZE, torch.float32)
            x.fill_(1000 * number + turn)
            time.sleep(0)
            wrong.extend([number] * bool((x != 1000 * number + turn).any()))

    wrong = []
    threads = [threading.Thread(target=draw, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 1 <= len(free()) <= 8  # of a thread, one in use and the next


def test_images_that_another_thread_drops_come_back():
    box = [images(SIZE, torch.float32)]
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    assert free() == [2**21]


def test_defaults_of_torch_do_not_matter():
    with torch.device("meta"):
        x = images(SIZE, torch.bfloat16)
    with torch.inference_mode():
        y = images(SIZE, torch.bfloat16)
    assert x.device.type == y.device.type == "cpu"
    assert not x.requires_grad


COMPILED = """
import torch
from unitgain.native import join
x = torch.randn(2, 64, 64, 64).contiguous(memory_format=torch.channels_last)
compiled = torch.compile(lambda x: join(2 * x, main=torch.bfloat16)[0], backend="eager")
for _ in range(2):
    assert torch.equal(compiled(x), (2 * x).bfloat16())
"""


def test_what_is_compiled_around_it_stays_right():
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


def test_memory_that_is_shared_or_seen_otherwise_is_not_lent_again():
    kept = [images(SIZE, torch.float32).numpy(), images(SIZE, torch.float32).untyped_storage()]
    kept.append(images(SIZE, torch.float32).share_memory_())  # which has moved
    assert free() == [2**21]
    images(SIZE, torch.float32)
    kept.clear()
    assert free() == [2**21] * 3


def test_a_network_asks_for_no_more_at_its_second_image(monkeypatch):
    spec = NetworkSpec(resolution=32, channels=3, label_dim=0, model_channels=64, channel_mult=(1, 2), num_blocks=1)
    denoiser = prepare(trained(spec))
    x = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        first = denoiser(x, 1.0)
        lying = free()
        assert lying
        monkeypatch.setattr(memory, "_new", lambda size: pytest.fail(f"{size} bytes more"))
        assert torch.equal(denoiser(x, 1.0), first)
    assert free() == lying


@pytest.mark.parametrize("size", [0, 1, memory.PAGE - 1, memory.PAGE, 5 * memory.PAGE + 3])
def test_large_pages_are_asked_for_within_what_is_there(size, monkeypatch):
    """Whole pages of the memory alone: advice for what lies beside it would be none of ours."""
    asked = []
    monkeypatch.setattr(memory, "_advise", lambda: lambda *given: asked.append(given))
    made = memory.in_large_pages(size)
    assert made.nbytes == size
    made.fill_(7)
    start = made.data_ptr()
    for first, length in asked:
        assert first % memory.PAGE == length % memory.PAGE == 0
        assert start <= first < first + length <= start + size
    assert sum(length for _, length in asked) >= size - 2 * memory.PAGE
    monkeypatch.undo()
    assert memory.in_large_pages(size).fill_(7).sum() == 7 * size


KEPT = """
import resource, sys, torch
from unitgain.bench.memory import in_use
from unitgain.native.memory import kept_memory

def pages():
    for _ in range(4):
        torch.ones(2**24)  # 64 MiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = pages()
with kept_memory():
    inside, held = pages(), in_use()
print(usual, inside, held - in_use())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_what_is_freed_is_kept_while_a_block_runs_and_given_back_after():
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    usual, inside, freed = map(int, done.stdout.split())
    assert usual > inside < 100  # of four times 16,384, or 32 large ones
    assert freed >= 2**26


PAGES = """
import resource, sys, torch
from unitgain.native.memory import kept_memory

def flags(address):
    here = False
    for line in open("/proc/self/smaps"):
        name, *values = line.split()
        if not name.endswith(":"):
            first, last = (int(value, 16) for value in name.split("-"))
            here = first <= address < last
        elif here and name == "VmFlags:":
            return values

def addresses():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))

torch.ones(2**24).sum()
before = addresses()
if len(sys.argv) > 1:
    kind = getattr(resource, sys.argv[1])
    resource.setrlimit(kind, (1024 * before + int(sys.argv[2]), -1))
with kept_memory():
    x = torch.ones(2**24)  # 64 MiB
    print("hg" in flags(x.data_ptr() + 2**25), 1024 * (addresses() - before))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux how memory is mapped")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_what_is_kept_is_in_large_pages_but_where_addresses_are_few():
    def run(*limit):
        command = [sys.executable, "-c", PAGES, *limit]
        usual = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        done = subprocess.run(command, env=usual, capture_output=True, text=True, check=True)
        large, taken = done.stdout.split()
        return large, int(taken)

    large, _ = run()
    assert large == "True"
    for kind in ("RLIMIT_AS", "RLIMIT_DATA"):
        few, less = run(kind, str(2**30))
        assert few == "False" and less < 2**28  # the tensor and little else: others need addresses too
