"""What a forward reads besides the values of parameters, buffers and inputs, to tell it again."""

from __future__ import annotations

import enum
import functools
import types
import weakref
from collections.abc import Hashable

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (
    bool | int | str | bytes | type | enum.Enum | types.BuiltinFunctionType
    | types.ModuleType | torch.dtype | torch.device | torch.layout | torch.memory_format | None
)  # fmt: skip
_REGISTERED = ("_parameters", "_buffers", "_modules")
_LARGEST = 1 << 16  # bytes of an array that is told by its contents


class _Empty:
    """Takes no more memory than an object without slots and without state of another language."""


class Opaque(Exception):
    """A thing whose state cannot be seen."""


def fingerprint(model: nn.Module) -> Hashable:
    """The state of a module and its submodules besides parameters and buffers, by value.

    Args:
        model: stays as it is.

    Returns:
        Something that equals what an equal state gives.

    Raises:
        Opaque: an attribute holds what may change unseen.
    """
    return tuple((id(module), type(module), _attributes(module, ())) for module in model.modules())


def _attributes(module: nn.Module, inside: tuple[int, ...]) -> Hashable:
    hidden = ("_flat_weights", "_flat_weight_refs") if isinstance(module, nn.RNNBase) else ()
    return tuple(
        (name, _value(value, inside))
        for name, value in vars(module).items()
        if name not in _REGISTERED + hidden
    )


def _value(thing: object, inside: tuple[int, ...]) -> Hashable:
    """The thing by value; ``inside`` are the things that it is part of."""
    if isinstance(thing, float | complex):
        return (type(thing), repr(thing))  # 0.0 equals -0.0
    if isinstance(thing, _PLAIN):
        return (type(thing), thing)
    if id(thing) in inside:
        return "itself"
    inside = (*inside, id(thing))
    if isinstance(thing, dict):
        pairs = ((_value(key, inside), _value(item, inside)) for key, item in thing.items())
        return (type(thing), tuple(pairs), _own(thing, inside))
    if isinstance(thing, list | tuple | set | frozenset):
        items = tuple(_value(item, inside) for item in thing)
        return (type(thing), items, _own(thing, inside))
    if isinstance(thing, Tensor):  # its numbers may have been read, and changed since
        return (id(thing), thing.data_ptr(), thing._version)
    if isinstance(thing, np.ndarray) and thing.nbytes <= _LARGEST and not thing.dtype.hasobject:
        return (thing.dtype.str, thing.shape, thing.tobytes())
    if isinstance(thing, types.FunctionType):
        try:
            cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        except ValueError as error:  # a name that is not bound yet
            raise Opaque from error
        parts = _value([thing.__defaults__, thing.__kwdefaults__, cells], inside)
        return (thing.__code__, id(thing.__globals__), parts)
    if isinstance(thing, types.MethodType):
        return (_value(thing.__func__, inside), _value(thing.__self__, inside))
    if isinstance(thing, functools.partial):
        return _value([thing.func, thing.args, thing.keywords], inside)
    if isinstance(thing, weakref.ref):
        return ("reference", id(thing()))
    if isinstance(thing, nn.Module):
        return (id(thing), type(thing), _attributes(thing, inside))
    slots = any(vars(kind).get("__slots__") for kind in type(thing).__mro__)
    size = type(thing).__basicsize__
    if slots or size != _Empty.__basicsize__ or not hasattr(thing, "__dict__"):
        raise Opaque
    return (type(thing), _own(thing, inside))


def _own(thing: object, inside: tuple[int, ...]) -> Hashable:
    """The attributes of a thing."""
    names = getattr(thing, "__dict__", {})
    return tuple((name, _value(value, inside)) for name, value in names.items())
