"""A module seen as a function of chosen parameters, at one point, without ever changing it."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from hesslab.data import Batches
from hesslab.operators.derivatives import SameDerivatives, has_weight_norm
from hesslab.operators.fingerprint import Opaque, fingerprint
from hesslab.operators.norms import BatchNormMode, Norms
from hesslab.operators.parameters import (
    check_parameters,
    choose,
    first_names,
    refuse_random_layers,
)
from hesslab.operators.shared import EVALUATING


class Network:
    """The outputs of ``model`` as a function of its chosen parameters.

    The values of all parameters and buffers are copied, so that later training does not move
    the point. The module lends only its ``forward``: its parameters, buffers, gradients and modes
    stay as they are.

    ``batchnorm`` overrides the train/eval mode of the BatchNorm modules, and of no others.
    "population" needs `measure_population` before the outputs are asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: str | Sequence[str] | None,
        *,
        batchnorm: BatchNormMode | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
        refuse_random_layers(model)
        self._norms = Norms(model, batchnorm)
        self._model = model
        # A forward on another thread lends the model other parameters for a while.
        with EVALUATING, torch.inference_mode(False), torch.no_grad():
            named = dict(model.named_parameters())
            chosen = choose(named, parameters)
            check_parameters({name: named[name] for name in chosen}, named)
            values = {name: tensor.detach().clone() for name, tensor in named.items()}
            self._buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
        self.point = {name: values.pop(name) for name in chosen}
        self._frozen = values
        self._names = first_names(model)
        self._has_weight_norm = has_weight_norm(model)
        self._modes = [module.training for module in model.modules()]

    def outputs(self, point: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The model's outputs ``[B, ..., C]`` at ``point`` (name to tensor)."""
        self.check_unchanged(x.device)
        # A forward may update buffers in place; it gets copies.
        buffers = {name: buffer.clone() for name, buffer in self._buffers.items()}
        return self.forward({**self._frozen, **buffers, **point}, x)

    def check_unchanged(self, device: torch.device) -> None:
        """Refuse to go on where the function is no longer the one that the operator was built on.

        Raises:
            ValueError: autocast is on, or the model's train/eval mode has changed.
        """
        if torch.is_autocast_enabled(device.type):
            raise ValueError(
                "autocast is on, and its rounding would be differentiated; "
                "take products outside torch.autocast"
            )
        if [module.training for module in self._model.modules()] != self._modes:
            raise ValueError(
                "the model's train/eval mode has changed since the operator was built; "
                "build a new operator, or restore the mode"
            )

    def forward(self, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The model's outputs ``[B, ..., C]`` with all its parameters and buffers given."""
        # A norm that keeps no statistics may be given some: names that the model lacks.
        full = {**state, **{name: state[first] for name, first in self._names.items()}}
        with EVALUATING, self._norms.replaced(), self._derivatives():
            # A first layer may work in place; the user's data stays. torch's own tying would leave
            # the given tensors in a module that stands at two places.
            outputs = torch.func.functional_call(self._model, full, (x.clone(),), tie_weights=False)
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"the model returned a {type(outputs).__name__}; expected a tensor of outputs "
                "[B, ..., C]: wrap the model in a module that returns only the outputs"
            )
        return outputs

    def _derivatives(self) -> AbstractContextManager[object]:
        # Backward mode needs the correction of weight norm alone, and the mode costs time per call.
        return SameDerivatives() if self._has_weight_norm else nullcontext()

    def measure_population(self, batches: Batches, *, single: bool) -> None:
        """Take the statistics of all batch norms over the data, and keep them as constants.

        Args:
            batches: all the data.
            single: it is one batch.
        """
        with torch.no_grad():
            self._norms.measure(
                lambda x: self.outputs(self.point, x), batches, self._buffers, single=single
            )

    def linearised(self, x: Tensor, direction: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Outputs ``[B, ..., C]`` at the point, and their derivative along a direction."""

        def function(point: Mapping[str, Tensor]) -> Tensor:
            with SameDerivatives():
                return self.outputs(point, x)

        with EVALUATING, torch.enable_grad():
            try:
                outputs, change = torch.func.jvp(  # type: ignore[misc]
                    function, (self.point,), (dict(direction),)
                )
            except torch.OutOfMemoryError:
                raise
            except (NotImplementedError, RuntimeError):  # a layer without forward mode
                outputs, change = self._linearised_by_backward(x, direction)
        return outputs.detach(), change.detach()

    def _linearised_by_backward(
        self, x: Tensor, direction: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        # J v is the derivative of (J^T w) . v by w, whatever w.
        leaves = self.leaves()
        outputs = self.outputs(leaves, x)
        w = torch.zeros_like(outputs, requires_grad=True)
        pulled = torch.autograd.grad(
            outputs, list(leaves.values()), w, create_graph=True, materialize_grads=True
        )
        try:
            (change,) = torch.autograd.grad(
                pulled, w, [direction[name] for name in leaves], materialize_grads=True
            )
        except RuntimeError as error:
            raise ValueError(
                "a layer of the model has neither a forward-mode derivative nor a backward that "
                "can be differentiated, of which the GGN and linearised predictions need one: "
                f"{str(error)[:120]}"
            ) from error
        return outputs, change

    def restrict(self, names: Sequence[str]) -> Network:
        """The same network at the same point, as a function of fewer of its parameters."""
        other = copy.copy(self)
        other.point = {name: self.point[name] for name in names}
        fixed = {name: value for name, value in self.point.items() if name not in names}
        other._frozen = {**self._frozen, **fixed}
        return other

    def in_float64(self) -> Network:
        """The same network at the same point in double precision."""
        other = copy.copy(self)
        for name in ("point", "_frozen", "_buffers"):
            tensors = getattr(self, name).items()
            double = {key: t.double() if t.is_floating_point() else t for key, t in tensors}
            setattr(other, name, double)
        return other

    def state(self) -> dict[str, Tensor]:
        """All parameters and buffers by name, the chosen parameters first."""
        return {**self.point, **self._frozen, **self._buffers}

    @property
    def model(self) -> nn.Module:
        """The user's module."""
        return self._model

    @contextmanager
    def attributes_kept(self) -> Iterator[None]:
        """Attributes that a forward sets on its modules are set back on the way out."""
        before = [(module, dict(vars(module))) for module in self._model.modules()]
        values = [value for _, attributes in before for value in attributes.values()]
        lists = [(value, list(value)) for value in values if type(value) is list]
        tables = [(value, dict(value)) for value in values if isinstance(value, dict)]
        try:
            yield
        finally:
            for module, attributes in before:
                vars(module).clear()
                vars(module).update(attributes)
            for items, content in lists:
                items[:] = content
            for table, entries in tables:
                table.clear()
                table.update(entries)

    def kind(self) -> Hashable | None:
        """What `forward` depends on besides tensors; None if that cannot be told."""
        try:
            with EVALUATING:  # a forward on another thread changes attributes for a while
                return (tuple(self.point), self._norms.mode, fingerprint(self._model))
        except Opaque:
            return None

    @property
    def depends_on_batch(self) -> bool:
        """Whether an output depends on all examples of its batch, through batch statistics."""
        return self._norms.depend_on_batch

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
