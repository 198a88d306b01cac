"""Kernels of attention that can be differentiated twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hesslab.operators.shared import Shared


@contextmanager
def _mathematical() -> Iterator[None]:
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


# Attention by plain products, restored on the way out: flash attention and the fused encoder path
# have neither a forward-mode nor a second derivative.
differentiable_kernels = Shared(_mathematical)
