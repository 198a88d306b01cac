"""Batch norm as plain operations, in the mode that was chosen, while a network is evaluated.

One definition for every route: frozen statistics are ``x * scale + shift``, statistics of the batch
the mean, the centred second moment and its inverse root. A module's buffers are never written.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hesslab.errors import NotFinite

BatchNormMode: TypeAlias = Literal["running", "batch", "population"]
"""Where batch norm takes its mean and variance from."""

_CHOICES = (
    'batchnorm="running" (its running statistics, as constants), "batch" (the statistics of each '
    'batch, differentiated through) or "population" (those of all the data, as constants)'
)


class Norms:
    """The batch norms of a model and the mode in which they work.

    Args:
        model: its BatchNorm modules are found; they keep their own ``forward``.
        mode: None follows each module's own train/eval mode, of which only eval is accepted.

    Attributes:
        mode: the mode.
        depend_on_batch: an output depends on all examples of its batch.

    Raises:
        ValueError: the mode is unknown, missing where a module is in training mode, or not to be
            had for one of the modules.
    """

    def __init__(self, model: nn.Module, mode: BatchNormMode | None) -> None:
        if mode is not None and mode not in get_args(BatchNormMode):
            raise ValueError(f"batchnorm={mode!r} is unknown; expected {_CHOICES}, or None")
        self.mode = mode
        self._named: dict[str, _BatchNorm] = {}
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                _refuse(name, module, mode)
                if _is_plain(module):
                    self._named[name] = module
        self._rule = {"batch": _batch, "population": _unmeasured}.get(mode or "", _frozen)
        self.depend_on_batch = mode == "batch" and bool(self._named)

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Plain operations stand in for the ``forward`` of each norm; restored on the way out."""
        # In the instance, so that the module's hooks run around them.
        for name, module in self._named.items():
            module.forward = functools.partial(self._rule, name, module)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for module in self._named.values():
                del module.forward

    def measure(
        self,
        forward: Callable[[Tensor], object],
        batches: Iterable[tuple[Tensor, Tensor]],
        buffers: dict[str, Tensor],
        *,
        single: bool,
    ) -> None:
        """Put the mean and the biased variance over all the data into the buffers of each norm.

        Norm by norm in the order of execution: the inputs of a norm are computed with the
        population statistics of all norms before it. Nothing is approximated: the centred moments
        of the batches are merged in float64.

        Args:
            forward: the network's outputs ``[B, ..., C]`` of inputs ``[B, ...]``, with ``buffers``.
            batches: all the data; gone through once per norm.
            buffers: of the model, by name; the statistics are written into it.
            single: the data is one batch, so that one pass measures all norms.

        Raises:
            ValueError: a norm is used twice in a forward, or not in the same order in each batch.
            NotFinite: a statistic is NaN or infinite.

        Cost: for L norms L passes of the forward, each only up to the norm that is measured, and
        one batch more. One pass where the data is one batch.
        """
        survey = _Survey(buffers, single)
        self._rule = survey.rule
        while survey.advance(forward, batches):
            pass
        self._rule = survey.measured


class _Reached(BaseException):
    """Ends a forward at the norm that is measured; no handler of the model is to stop it."""


class _Moments:
    """Count, mean and sum of squared deviations of each channel, merged batch by batch."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = torch.zeros(())

    def add(self, x: Tensor) -> None:
        values = x.detach().double().movedim(1, 0).flatten(1)  # [C, B ...]
        mean = values.mean(1)
        squares = (values - mean.unsqueeze(1)).square().sum(1)
        n, before = values.shape[1], self._count
        self._count = before + n
        if before:
            gap = mean - self._mean
            mean = self._mean + gap * (n / self._count)
            squares = self._squares + squares + gap.square() * (before * n / self._count)
        self._mean, self._squares, self._dtype = mean, squares, x.dtype

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and biased variance, ``[C]`` each."""
        return self._mean.to(self._dtype), (self._squares / self._count).to(self._dtype)


class _Survey:
    """Population statistics in the making: which norms are known, and which one is measured."""

    def __init__(self, buffers: dict[str, Tensor], single: bool) -> None:
        self._buffers = buffers
        self._single = single
        self._known: set[str] = set()
        self._used: set[str] = set()  # in this forward
        self._moments: dict[str, _Moments] = {}  # of this pass

    def advance(
        self, forward: Callable[[Tensor], object], batches: Iterable[tuple[Tensor, Tensor]]
    ) -> bool:
        """Measure the first norm that is not known; False where there is none."""
        self._moments.clear()
        for x, _ in batches:
            self._used.clear()
            try:
                forward(x)
            except _Reached:
                if len(self._moments) > 1:
                    raise ValueError(_ORDER) from None
            else:
                if self._moments:
                    raise ValueError(_ORDER)
                return False
        for name, moments in self._moments.items():
            self._keep(name, moments)
        return bool(self._moments)

    def rule(self, name: str, module: _BatchNorm, x: Tensor) -> Tensor:
        """What a norm does while the norms are measured."""
        if name in self._used:
            raise ValueError(
                f"{_kind(name, module)} is used more than once in a forward, so that it has no "
                'single population statistics; choose batchnorm="running" or "batch"'
            )
        self._used.add(name)
        if name in self._known:
            return _frozen(name, module, x)
        module._check_input_dim(x)
        self._moments.setdefault(name, _Moments()).add(x)
        if not self._single:
            raise _Reached
        return _affine(module, x, *self._keep(name, self._moments.pop(name)))

    def measured(self, name: str, module: _BatchNorm, x: Tensor) -> Tensor:
        """What a norm does in products: it uses no statistics but those that were measured."""
        if name not in self._known:
            raise ValueError(_ORDER)
        return _frozen(name, module, x)

    def _keep(self, name: str, moments: _Moments) -> tuple[Tensor, Tensor]:
        mean, variance = moments.statistics()
        if not bool((mean.isfinite() & variance.isfinite()).all()):
            raise NotFinite(
                f"the population statistics of the batch norm {name or '(the model)'} are NaN or "
                "infinite: so are its inputs for some of the data"
            )
        prefix = f"{name}." if name else ""
        self._buffers[f"{prefix}running_mean"] = mean
        self._buffers[f"{prefix}running_var"] = variance
        self._known.add(name)
        return mean, variance


_ORDER = (
    "the model does not use its batch norms in the same order for each batch, so that they have "
    'no population statistics; choose batchnorm="running" or "batch"'
)


def _frozen(name: str, module: _BatchNorm, x: Tensor) -> Tensor:
    assert module.running_mean is not None
    assert module.running_var is not None
    return _affine(module, x, module.running_mean, module.running_var)


def _unmeasured(name: str, module: _BatchNorm, x: Tensor) -> Tensor:
    raise RuntimeError(
        f"{_kind(name, module)} has no population statistics yet; measure_population takes them"
    )


def _affine(module: _BatchNorm, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    module._check_input_dim(x)
    scale = torch.rsqrt(variance + module.eps)
    if module.weight is not None:
        scale = scale * module.weight
    shift = -mean * scale
    if module.bias is not None:
        shift = shift + module.bias
    return x * _channels(scale, x) + _channels(shift, x)


def _batch(name: str, module: _BatchNorm, x: Tensor) -> Tensor:
    module._check_input_dim(x)
    if x.numel() == x.shape[1]:
        raise ValueError(
            f"{_kind(name, module)} gets one value per channel from a batch of {len(x)} example, "
            "and has no variance then; choose a batch_size that leaves no such batch, or "
            'batchnorm="population"'
        )
    dims = [0, *range(2, x.ndim)]
    centred = x - x.mean(dims, keepdim=True)
    variance = (centred * centred).mean(dims, keepdim=True)
    normalised = centred * torch.rsqrt(variance + module.eps)
    if module.weight is not None:
        normalised = normalised * _channels(module.weight, x)
    if module.bias is not None:
        normalised = normalised + _channels(module.bias, x)
    return normalised


def _channels(values: Tensor, x: Tensor) -> Tensor:
    """One value per channel ``[C]``, shaped to meet ``x`` ``[B, C, ...]``."""
    return values.view(x.shape[1], *[1] * (x.ndim - 2))


def _is_plain(module: _BatchNorm) -> bool:
    own = type(module).forward not in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    return not own and "forward" not in vars(module)


def _kind(name: str, module: _BatchNorm) -> str:
    return f"{name or 'the model'} ({type(module).__name__})"


def _refuse(name: str, module: _BatchNorm, mode: BatchNormMode | None) -> None:
    kind = _kind(name, module)
    keeps_none = module.running_mean is None
    if mode is None and (module.training or keeps_none):
        raise ValueError(
            f"{kind} normalises with the statistics of the batch, so that the loss is another "
            f"function for each way of cutting the data into batches; choose {_CHOICES}"
            + (": it keeps no running statistics" if keeps_none else "; model.eval() is the first")
        )
    if mode == "running" and keeps_none:
        raise ValueError(
            f"{kind} keeps no running statistics (track_running_stats=False); "
            'choose batchnorm="batch" or "population"'
        )
    if mode == "batch" and isinstance(module, nn.SyncBatchNorm):
        raise ValueError(
            f"{kind} takes its batch statistics over all processes, the operator over its own "
            'batches; choose batchnorm="running" or "population", or convert it to BatchNorm'
        )
    if not _is_plain(module) and (mode in ("batch", "population") or module.training):
        raise ValueError(
            f"{kind} has a forward of its own, whose statistics the operator cannot choose; "
            "call model.eval() and leave batchnorm out, or use torch's own BatchNorm"
        )
