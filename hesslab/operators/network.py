"""A module seen as a function of chosen parameters, at one point, without ever changing it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from hesslab.errors import NotDeterministic, NotFinite


class Network:
    """The outputs of ``model`` as a function of its chosen parameters.

    The values of all parameters and buffers are copied, so that later training does not move
    the point. The module lends only its ``forward``: its parameters, buffers, gradients and modes
    stay as they are.
    """

    def __init__(self, model: nn.Module, parameters: str | Sequence[str] | None) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
        _refuse_random_layers(model)
        self._model = model
        named = dict(model.named_parameters())
        chosen = _choose(named, parameters)
        _check_parameters({name: named[name] for name in chosen}, named)
        with torch.inference_mode(False), torch.no_grad():
            values = {name: tensor.detach().clone() for name, tensor in named.items()}
            self._buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
        self.point = {name: values.pop(name) for name in chosen}
        self._frozen = values
        self._modes = [module.training for module in model.modules()]
        self._padding = _padding_rows(model, chosen)

    def outputs(self, point: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The model's outputs ``[B, ..., C]`` at ``point`` (name to tensor)."""
        if torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                "autocast is on, and its rounding would be differentiated; "
                "take products outside torch.autocast"
            )
        if [module.training for module in self._model.modules()] != self._modes:
            raise ValueError(
                "the model's train/eval mode has changed since the operator was built; "
                "build a new operator, or restore the mode"
            )
        # A forward may update buffers in place; it gets copies.
        buffers = {name: buffer.clone() for name, buffer in self._buffers.items()}
        state = {**self._frozen, **buffers, **point}
        # A first layer may work in place; the user's data stays.
        outputs = torch.func.functional_call(self._model, state, (x.clone(),))
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"the model returned a {type(outputs).__name__}; expected a tensor of outputs "
                "[B, ..., C]: wrap the model in a module that returns only the outputs"
            )
        return outputs

    def linearised(self, x: Tensor, direction: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Outputs ``[B, ..., C]`` at the point, and their derivative along a direction."""
        tangents = dict(direction)
        for name, row in self._padding.items():
            tangents[name] = tangents[name].clone()
            tangents[name][row] = 0
        try:
            outputs, change = torch.func.jvp(  # type: ignore[misc]
                lambda point: self.outputs(point, x), (self.point,), (tangents,)
            )
        except (NotImplementedError, RuntimeError) as error:
            if "forward AD" not in str(error):
                raise
            raise ValueError(
                "a layer of the model has no forward-mode derivative in torch, which the GGN and "
                f"linearised predictions need (the Hessian does not): {str(error)[:120]}"
            ) from error
        return outputs, change

    @property
    def size(self) -> int:
        """P, the number of chosen parameters."""
        return sum(value.numel() for value in self.point.values())

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(iter(self.point.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """What the parameters are."""
        return next(iter(self.point.values())).dtype

    def split(self, v: Tensor) -> dict[str, Tensor]:
        """Cut a vector ``[P]`` into tensors named and shaped as the point."""
        pieces = v.split([value.numel() for value in self.point.values()])
        return {
            name: piece.view(value.shape)
            for (name, value), piece in zip(self.point.items(), pieces, strict=True)
        }

    def leaves(self) -> dict[str, Tensor]:
        """The point as new leaves that require a gradient (sharing memory with it)."""
        return {name: value.detach().requires_grad_() for name, value in self.point.items()}


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Attention through kernels that can be differentiated twice; restored on the way out.

    Flash attention and the fused encoder path have neither a forward-mode nor a second
    derivative.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _choose(named: Mapping[str, Tensor], patterns: str | Sequence[str] | None) -> list[str]:
    if patterns is None:
        chosen = [name for name, tensor in named.items() if tensor.requires_grad]
        if not chosen:
            raise ValueError(
                f"none of the model's {len(named)} parameters requires a gradient; "
                "name the wanted ones with parameters=[...]"
            )
        return chosen
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns:
        raise ValueError("parameters=[] names none; leave it out for all that require a gradient")
    for pattern in patterns:
        if pattern not in named and not fnmatch.filter(named, pattern):
            raise ValueError(
                f"parameters={pattern!r} matches no parameter; the model has {', '.join(named)}"
            )
    return [
        name
        for name in named
        if name in patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]


def _padding_rows(model: nn.Module, chosen: Sequence[str]) -> dict[str, int]:
    """The padding row, by name, of each embedding whose weight is used once."""
    # Backward takes that row as fixed; forward mode would let it move, and the GGN mix the two.
    uses = [id(p) for module in model.modules() for p in module.parameters(recurse=False)]
    return {
        name: module.padding_idx
        for prefix, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and module.padding_idx is not None
        and (name := f"{prefix}.weight".lstrip(".")) in chosen
        and uses.count(id(module.weight)) == 1
    }


def _check_parameters(chosen: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> None:
    for what in ("dtype", "device"):
        kinds: dict[str, str] = {}
        for name, tensor in named.items():
            kinds.setdefault(str(getattr(tensor, what)), name)
        if len(kinds) > 1:
            found = " and ".join(f"{kind} ({name})" for kind, name in kinds.items())
            raise ValueError(
                f"the model mixes parameters of {what} {found}; products need one {what}: "
                "convert the whole model with model.to(...)"
            )
    first = next(iter(chosen.values()))
    if first.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"the parameters are {first.dtype}; products are taken in float32 or float64: "
            "convert the model with model.float()"
        )
    if first.device.type == "mps":
        raise ValueError(
            "the model is on mps, which has no float64 for the sums; move it to the CPU"
        )
    for name, tensor in named.items():
        if not bool(tensor.isfinite().all()):
            raise NotFinite(
                f"the parameter {name} holds NaN or infinite values; the training diverged, or "
                "the file that it was loaded from is damaged"
            )


def _refuse_random_layers(model: nn.Module) -> None:
    for name, module in model.named_modules():
        kind = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, _DropoutNd) and module.training and module.p > 0:
            raise NotDeterministic(
                f"dropout is active: {kind} is in training mode, so that each product would be "
                "taken of another function; call model.eval() first"
            )
        if isinstance(module, nn.RNNBase) and module.training and module.dropout > 0:
            raise NotDeterministic(
                f"dropout is active between the layers of {kind}; call model.eval() first"
            )
        if isinstance(module, _BatchNorm | _InstanceNorm):
            uses_batch = module.training or module.running_mean is None
            if isinstance(module, _BatchNorm) and uses_batch:
                raise ValueError(
                    f"{kind} normalises with the statistics of the batch, so that the loss is "
                    "another function for each way of cutting the data into batches; call "
                    "model.eval() to use its running statistics"
                    + ("" if module.running_mean is not None else " (it keeps none now)")
                )
            if module.training and module.running_mean is not None:
                raise ValueError(f"{kind} is in training mode and would update its statistics")
