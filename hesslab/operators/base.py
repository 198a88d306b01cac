"""What every matrix of the package can do: multiply tensors, blocks, arrays and dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, overload

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

from hesslab.errors import NotFinite

Array: TypeAlias = "np.ndarray[Any, Any]"


class Operator:
    """A symmetric matrix ``[P, P]`` on the parameters of a network that only multiplies.

    Subclasses implement `_matmat`. ``A @ v`` takes ``[P]``, ``[P, K]``, numpy arrays of either
    shape, or a dictionary of tensors named as in ``model.named_parameters()``, and returns the
    same kind, without a graph.
    """

    def __init__(self, point: Mapping[str, Tensor]) -> None:
        first = next(iter(point.values()))
        self._shapes = {name: tensor.shape for name, tensor in point.items()}
        self._sizes = [tensor.numel() for tensor in point.values()]
        self.dtype = first.dtype
        self.device = first.device

    @property
    def shape(self) -> tuple[int, int]:
        """``(P, P)``."""
        return sum(self._sizes), sum(self._sizes)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of the parameters in the order of the rows."""
        return tuple(self._shapes)

    @property
    def T(self) -> Operator:  # noqa: N802
        """The matrix itself, for it is symmetric."""
        return self

    H = T

    @overload
    def __matmul__(self, v: Tensor) -> Tensor: ...

    @overload
    def __matmul__(self, v: Array) -> Array: ...

    @overload
    def __matmul__(self, v: Mapping[str, Tensor]) -> dict[str, Tensor]: ...

    def __matmul__(self, v: Any) -> Any:
        """The product with a vector, a block of vectors or a dictionary of tensors.

        Args:
            v: ``[P]`` or ``[P, K]`` (tensor of the operator's dtype and device, or a numpy array),
                or a dictionary of tensors, one per parameter and of its shape.

        Returns:
            The same kind as ``v``, in the operator's dtype.

        Raises:
            ValueError: wrong shape, dtype or device.
            NotFinite: ``v`` or the product holds NaN or infinite values.
            TypeError: ``v`` is none of these kinds.
        """
        if isinstance(v, Mapping):
            product = self @ self.dict_to_vector(v)
            return self.vector_to_dict(product)
        if isinstance(v, np.ndarray):
            if np.iscomplexobj(v):
                raise ValueError("v is complex; the operator is real: multiply v.real and v.imag")
            tensor = torch.as_tensor(np.ascontiguousarray(v)).to(self.device, self.dtype)
            return (self @ tensor).cpu().numpy()
        if not isinstance(v, Tensor):
            raise TypeError(
                f"v is a {type(v).__name__}; expected a tensor or numpy array of shape [P] or "
                "[P, K], or a dictionary of named tensors"
            )
        self._check(v)
        with torch.inference_mode(False), torch.no_grad():
            block = v.clone() if v.is_inference() else v.detach()
            product = self._matmat(block.unsqueeze(1) if v.ndim == 1 else block)
        return product.squeeze(1) if v.ndim == 1 else product

    def _matmat(self, V: Tensor) -> Tensor:
        """The product with a block ``[P, K]``, of the operator's dtype and device."""
        raise NotImplementedError

    def _check(self, v: Tensor) -> None:
        P = self.shape[1]
        if v.ndim not in (1, 2) or v.shape[0] != P:
            found = f"{v.shape[0]} rows" if v.ndim in (1, 2) else f"{v.ndim} dimensions"
            raise ValueError(
                f"v has {found}, but the operator has {P} parameters ({self._name_list()}); "
                "build v with dict_to_vector from tensors named as in model.named_parameters()"
            )
        if v.dtype != self.dtype or v.device != self.device:
            raise ValueError(
                f"v is {v.dtype} on {v.device}, but the operator is {self.dtype} on "
                f"{self.device}; convert with v.to({str(self.device)!r}, {self.dtype})"
            )
        if not bool(v.isfinite().all()):
            raise NotFinite("v holds NaN or infinite values, so would the product")

    def _name_list(self) -> str:
        names = self.parameter_names
        return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])}, ... {names[-1]}"

    def dict_to_vector(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Join named tensors into one vector ``[P]`` in the order of the rows.

        Args:
            tensors: one per parameter, of its shape, in any order.

        Returns:
            ``[P]``, in the tensors' dtype.

        Raises:
            ValueError: a name is missing or unknown, or a shape is wrong.
        """
        missing = [name for name in self._shapes if name not in tensors]
        unknown = [name for name in tensors if name not in self._shapes]
        if missing or unknown:
            raise ValueError(
                f"the dictionary lacks {missing or 'nothing'} and has unknown {unknown or 'none'}; "
                f"expected exactly the parameters {self._name_list()}"
            )
        for name, shape in self._shapes.items():
            if tensors[name].shape != shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensors[name].shape)} in the dictionary, "
                    f"but the parameter has {tuple(shape)}"
                )
        return torch.cat([tensors[name].detach().reshape(-1) for name in self._shapes])

    def vector_to_dict(self, v: Tensor) -> dict[str, Tensor]:
        """Split a vector ``[P]`` into tensors of the parameters' names and shapes (views of it).

        Args:
            v: ``[P]``.

        Returns:
            A dictionary in the order of the rows.

        Raises:
            ValueError: ``v`` has another shape.
        """
        if v.shape != (self.shape[0],):
            raise ValueError(
                f"v has shape {tuple(v.shape)}, but the operator has {self.shape[0]} parameters; "
                "expected one vector [P]"
            )
        pieces = v.split(self._sizes)
        return {
            name: piece.view(shape)
            for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }

    def to_dense(self) -> Tensor:
        """The matrix itself, ``[P, P]``. Cost: P products; memory: 8 to 20 P^2 bytes."""
        P = self.shape[0]
        columns = []
        for start in range(0, P, 256):
            eye = torch.zeros(P, min(256, P - start), dtype=self.dtype, device=self.device)
            eye[start : start + 256].fill_diagonal_(1)
            columns.append(self @ eye)
        return torch.cat(columns, dim=1)

    def to_scipy(self) -> scipy.sparse.linalg.LinearOperator:
        """The operator for scipy: float arrays in and out, symmetric."""
        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return scipy.sparse.linalg.LinearOperator(
            self.shape,
            matvec=self.__matmul__,
            rmatvec=self.__matmul__,
            matmat=self.__matmul__,
            rmatmat=self.__matmul__,
            dtype=dtype,
        )
