"""A graph compiled by torch.compile, held to its plain form before it is used."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, fx

from hesslab.operators.engine.inplace import in_place

Function = Callable[..., tuple[Tensor, ...]]


class Compiled:
    """A graph's function, compiled at its first call for the shapes of that call.

    What comes out is then compared with the plain graph twice, on the tensors given and on others,
    so that no value can have been taken for a constant. Where compiling fails or the results
    differ, the plain graph stays, with a warning that says why. On CUDA the kernels are recorded as
    one CUDA graph.

    Args:
        module: a graph of tensors of fixed shapes.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module
        self._function: Function | None = None

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the graph."""
        if self._function is None:
            self._function = self._choose(tensors)
        return self._function(*tensors)

    def _choose(self, tensors: tuple[Tensor, ...]) -> Function:
        plain: Function = in_place(self._module).forward
        try:
            compiled = _compile(self._module, on_cuda=tensors[0].is_cuda)
            _compare(compiled, plain, tensors)
            others = (t * 0.9 if t.is_floating_point() else t for t in tensors)
            _compare(compiled, plain, tuple(others))
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"compile=True has no effect: {reason}", RuntimeWarning, stacklevel=2)
            return plain
        return compiled


def _compile(module: fx.GraphModule, *, on_cuda: bool) -> Function:
    if not on_cuda:
        function: Function = torch.compile(module, dynamic=False)
        return function
    recorded = torch.compile(module, dynamic=False, mode="reduce-overhead")
    # The memory of a recorded graph's outputs is written again by its next call.
    return lambda *tensors: tuple(out.clone() for out in recorded(*tensors))


def _compare(ours: Function, plain: Function, tensors: tuple[Tensor, ...]) -> None:
    for found, expected in zip(ours(*tensors), plain(*tensors), strict=True):
        allowed = 1e-9 if expected.dtype == torch.float64 else 1e-4
        apart = float((found - expected).norm())
        if not apart <= allowed * float(expected.norm()) + torch.finfo(expected.dtype).tiny:
            raise ValueError(f"the compiled product is off by {apart:.1e}")
