"""What keep_freed_memory changes, each in a process of its own: it cannot be undone."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import types

import pytest

from hesslab.operators.allocator import keep_freed_memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is controlled")

PAGES = (48 << 20) // 4096
FAULTS = """
import resource, torch
from hesslab.operators.allocator import keep_freed_memory
torch.set_num_threads(1)
kept = KEPT
def work():
    tensors = [torch.ones(1 << 20) for _ in range(12)]  # 4 MiB each
    return float(sum(tensor.sum() for tensor in tensors))
values = [work() for _ in range(3)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
values += [work() for _ in range(10)]
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
assert set(values) == {12.0 * (1 << 20)}
print(kept, faults / 10)
"""


def faults(kept: str, **environment: str) -> tuple[str, float]:
    """What was returned, and the page faults of work on 48 MiB that were freed before."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.replace("KEPT", kept)],
        capture_output=True,
        text=True,
        check=True,
        env={**inherited, **environment},
    )
    returned, _, count = done.stdout.strip().rpartition(" ")
    return returned, float(count)


@glibc
def test_freed_memory_is_used_again_without_page_faults():
    _, before = faults("None")
    returned, after = faults("keep_freed_memory()")
    assert before > PAGES / 2, "the default allocator should map the blocks afresh"
    assert returned == "True"
    assert after < PAGES / 100


@glibc
def test_the_environment_of_the_docstring_does_the_same():
    text = keep_freed_memory.__doc__
    assert text is not None
    named = dict(word.split("=") for word in text.split() if word.startswith("MALLOC_"))
    assert len(named) == 3
    _, after = faults("None", **named)
    assert after < PAGES / 100


def test_without_glibc_nothing_is_changed_and_false_is_returned(monkeypatch):
    called = []
    musl = types.SimpleNamespace(mallopt=lambda *pair: called.append(pair) or 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: musl)
    assert keep_freed_memory() is False
    assert called == []


def test_without_a_c_library_to_ask_false_is_returned(monkeypatch):
    def refuse(name):
        raise TypeError("a name is needed")  # what Windows answers

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert keep_freed_memory() is False


def _library(accept: int, free: int) -> types.SimpleNamespace:
    def plain(result):
        return lambda *arguments: result

    functions = {
        "mallopt": plain(accept),
        "gnu_get_libc_version": plain(b"2.36"),
        "malloc": plain(1),
        "free": plain(None),
        "mallinfo2": plain(types.SimpleNamespace(fordblks=free)),
    }
    return types.SimpleNamespace(**functions)


@pytest.mark.parametrize(
    ("accept", "free", "expected"),
    [(1, 8 << 20, True), (0, 8 << 20, False), (1, 0, False)],
    ids=["kept", "refused", "another allocator serves malloc"],
)
def test_true_is_returned_only_where_it_took_effect(monkeypatch, accept, free, expected):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: _library(accept, free))
    assert keep_freed_memory() is expected
