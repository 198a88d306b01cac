"""Opt-in control of glibc's allocator, which decides what a product costs on a CPU."""

from __future__ import annotations

import ctypes

# Names and limits of <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc accepts no more
_NEVER = 2**31 - 1
_GROWTH = 64 << 20
_PROBE = 8 << 20  # above the 128 kB from which glibc maps a block of its own by default


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, instead of giving it back to the system.

    By default glibc maps large blocks afresh and cuts off the free end of its heap, so that the
    system gets them back. A product allocates and frees hundreds of MB of activations, and each
    one pays again for as many pages: for a ResNet-20 at batch 64 a seventh of the CPU time of a
    gradient, and up to a third of that of a Hessian product. After this call blocks of up to
    32 MiB (glibc accepts no higher limit) come from the heap, and the heap is never trimmed.

    It holds for the whole process and until its end, so the package never calls it by itself:
    call it before the first tensor is made. The resident size then stays at its highest value,
    also after tensors are freed; they are free for torch, not for other processes. Tensors above
    32 MiB are mapped afresh as before. The results of products do not change.

    The same from outside, for programs that cannot call it::

        export MALLOC_MMAP_THRESHOLD_=33554432
        export MALLOC_TRIM_THRESHOLD_=2147483647
        export MALLOC_TOP_PAD_=67108864

    Returns:
        True where it took effect, which is tried on a block of 8 MiB; False where nothing was
        changed: not Linux with glibc (macOS, musl), or another allocator is preloaded (jemalloc
        and tcmalloc keep freed memory themselves).

    Source: mallopt(3).
    """
    try:
        libc = ctypes.CDLL(None)
        options = libc.mallopt
        libc.gnu_get_libc_version  # noqa: B018  musl has a mallopt that does nothing
    except (AttributeError, OSError, TypeError):
        return False
    wanted = {
        _MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD,
        _TRIM_THRESHOLD: _NEVER,
        _TOP_PAD: _GROWTH,
    }
    accepted = [options(option, value) == 1 for option, value in wanted.items()]
    return all(accepted) and _keeps(libc)


class _Statistics(ctypes.Structure):
    """What mallinfo2(3) returns: ten sizes."""

    _fields_ = [
        *((f"unread_{number}", ctypes.c_size_t) for number in range(8)),
        ("fordblks", ctypes.c_size_t),  # the bytes that are free in the heaps
        ("keepcost", ctypes.c_size_t),
    ]


def _keeps(libc: ctypes.CDLL) -> bool:
    """Whether a block that is freed stays in the heaps of glibc."""
    if not hasattr(libc, "mallinfo2"):  # before glibc 2.33: its word must do
        return True
    libc.mallinfo2.restype = _Statistics
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.free(libc.malloc(_PROBE))
    return int(libc.mallinfo2().fordblks) >= _PROBE
