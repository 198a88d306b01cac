"""Full float32 arithmetic while a product is taken, whatever the process allows elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch

from hesslab.operators.shared import Shared

# From the one that all inherit from to those of single operations. Once a switch stands at "ieee",
# whatever still reads otherwise below it was set there itself, and can be restored as it was.
_backends: Any = torch.backends  # torch gives these switches no types
_SWITCHES = (
    _backends,
    _backends.cudnn,
    _backends.cudnn.conv,
    _backends.cudnn.rnn,
    _backends.cuda.matmul,
    _backends.mkldnn.conv,
    _backends.mkldnn.rnn,
    _backends.mkldnn.matmul,
)
_OF_CUDA, _OF_CPU = _SWITCHES[2:5], _SWITCHES[5:]


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """No TF32 (nor bfloat16 inside float32 operations) on a device; restored on the way out.

    TF32 keeps 10 bits of a factor: products with a relative error of 1e-3, in which eigenvalues
    below a thousandth of the largest, and the signs of small ones, are noise. torch allows it in
    convolutions on CUDA by default.

    Nothing is touched where the device already computes in full. Elsewhere torch's older names
    (``allow_tf32``, ``torch.backends.cudnn.flags``) cannot be read inside: torch refuses to mix
    them with ``fp32_precision``, which is used here.

    Args:
        device: where the operations run.

    Returns:
        The context.
    """
    return (_ON_CUDA if device.type == "cuda" else _ON_CPU)()


@contextmanager
def _switched(switches: Sequence[Any]) -> Iterator[None]:
    """All switches at "ieee", if one of those given rounds."""
    if all(switch.fp32_precision in ("none", "ieee") for switch in switches):
        yield
        return
    changed: list[tuple[Any, str]] = []
    try:
        for switch in _SWITCHES:
            found = switch.fp32_precision
            if found != "ieee":
                switch.fp32_precision = "ieee"
                changed.append((switch, found))
        yield
    finally:
        for switch, found in reversed(changed):
            switch.fp32_precision = found


_ON_CUDA, _ON_CPU = (Shared(partial(_switched, switches)) for switches in (_OF_CUDA, _OF_CPU))
