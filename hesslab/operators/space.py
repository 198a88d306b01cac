"""What one side of a matrix counts: the entries of named parameters, or outputs."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from hesslab.errors import NotFinite
from hesslab.linalg.matrix import all_finite


class Space:
    """Vectors of one length, dtype and device; those of parameters have named pieces.

    Args:
        size: length of a vector.
        dtype: of its entries.
        device: where it lives.
        what: what its entries are, in error messages.
        shapes: name and shape of each piece, in order; None where entries have no names.
    """

    def __init__(
        self,
        size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        what: str,
        shapes: Mapping[str, torch.Size] | None = None,
    ) -> None:
        self.size = size
        self.dtype = dtype
        self.device = device
        self.what = what
        self.shapes = dict(shapes or {})

    @classmethod
    def of(cls, point: Mapping[str, Tensor]) -> Space:
        """The space of a dictionary of parameters, in its order."""
        first = next(iter(point.values()))
        shapes = {name: tensor.shape for name, tensor in point.items()}
        size = sum(shape.numel() for shape in shapes.values())
        return cls(size, first.dtype, first.device, what="parameters", shapes=shapes)

    def __repr__(self) -> str:
        return f"{self.size} {self.what}" + (f" ({self.name_list()})" if self.shapes else "")

    def name_list(self) -> str:
        """The names, the middle ones left out where there are many."""
        names = tuple(self.shapes)
        return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])}, ... {names[-1]}"

    def check(self, v: Tensor) -> None:
        """Refuse what is no vector ``[n]`` or block ``[n, K]`` of this space."""
        if v.ndim not in (1, 2) or v.shape[0] != self.size:
            found = f"{v.shape[0]} rows" if v.ndim in (1, 2) else f"{v.ndim} dimensions"
            cure = (
                "build v with dict_to_vector from tensors named as in model.named_parameters()"
                if self.shapes
                else "v needs one entry for each of them, in the order of the data"
            )
            raise ValueError(f"v has {found}, but the operator has {self!r}; {cure}")
        if v.dtype != self.dtype or v.device != self.device:
            raise ValueError(
                f"v is {v.dtype} on {v.device}, but the operator is {self.dtype} on "
                f"{self.device}; convert with v.to({str(self.device)!r}, {self.dtype})"
            )
        if not all_finite(v):
            raise NotFinite("v holds NaN or infinite values, so would the product")

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """One vector of a dictionary with a tensor for each name."""
        self._need_names()
        missing = [name for name in self.shapes if name not in tensors]
        unknown = [name for name in tensors if name not in self.shapes]
        if missing or unknown:
            raise ValueError(
                f"the dictionary lacks {missing or 'nothing'} and has unknown {unknown or 'none'}; "
                f"expected exactly the parameters {self.name_list()}"
            )
        for name, shape in self.shapes.items():
            if tensors[name].shape != shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensors[name].shape)} in the dictionary, "
                    f"but the parameter has {tuple(shape)}"
                )
        return torch.cat([tensors[name].detach().reshape(-1) for name in self.shapes])

    def split(self, v: Tensor) -> dict[str, Tensor]:
        """The named pieces of a vector ``[n]``, as views of it."""
        self._need_names()
        if v.shape != (self.size,):
            raise ValueError(
                f"v has shape {tuple(v.shape)}, but the operator has {self.size} parameters; "
                "expected one vector [P]"
            )
        pieces = v.split([shape.numel() for shape in self.shapes.values()])
        return {
            name: piece.view(shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def choose(self, patterns: str | Sequence[str]) -> list[str]:
        """The names that equal or match one of the names or shell patterns, in order."""
        self._need_names()
        patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        if not patterns:
            raise ValueError("an empty list names no parameter; at least one is needed")
        found, idle = matching(self.shapes, patterns)
        if idle:
            raise ValueError(
                f"{idle[0]!r} matches no parameter of the operator, which has "
                f"{', '.join(self.shapes)}"
            )
        return found

    def subset(self, names: Sequence[str]) -> Space:
        """The space of some of the names, in the order given."""
        shapes = {name: self.shapes[name] for name in names}
        size = sum(shape.numel() for shape in shapes.values())
        return Space(size, self.dtype, self.device, what=self.what, shapes=shapes)

    def rows(self, names: Sequence[str]) -> Tensor:
        """Where the entries of some names stand in a vector, ``[m]`` int64."""
        places = self.split(torch.arange(self.size, device=self.device))
        return torch.cat([places[name].reshape(-1) for name in names])

    def _need_names(self) -> None:
        if not self.shapes:
            raise ValueError(
                f"this side of the operator has {self!r}, which have no names; give a vector, "
                "or a dictionary on the side of the parameters"
            )


def matching(names: Collection[str], patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names that equal or match a shell pattern, in order; and the patterns without any."""
    found = [
        name
        for name in names
        if name in patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]
    idle = [p for p in patterns if p not in names and not fnmatch.filter(names, p)]
    return found, idle
