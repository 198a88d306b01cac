"""Programs by model and shape of batch: traced once, and found again by the operators after."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from hesslab.operators.engine.graph import Untraceable
from hesslab.operators.engine.program import Program
from hesslab.operators.network import Network
from hesslab.operators.shared import EVALUATING

# Graphs hold no values, so that operators of one model at other points can share them.
_PROGRAMS: weakref.WeakKeyDictionary[Any, dict[Any, Program]] = weakref.WeakKeyDictionary()
PROGRAMS = 32  # of one model; more come only from a model that changes all the time


def program_of(network: Network, x: Tensor, *, compiled: bool) -> Program:
    """The program of a network for batches of a shape; traced once as long as the model lives.

    Args:
        network: whose forward is traced.
        x: a batch; a program that is there already must give its outputs, or is made anew.
        compiled: see `Program`.

    Returns:
        The program.

    Raises:
        Untraceable: there is none.
    """
    model, kind = network.model, network.kind()
    # Equal models need not be the same.
    if kind is None or type(model).__hash__ is not object.__hash__:
        return _traced(network, x, compiled=compiled)
    known = _PROGRAMS.setdefault(model, {})
    key = (kind, x.shape, x.dtype, network.dtype, x.device, compiled)
    if key in known and _gives_the_outputs(known[key], network, x):
        return known[key]
    program = _traced(network, x, compiled=compiled)
    if not program.constants:  # what the forward has captured may be replaced unseen
        if len(known) >= PROGRAMS:
            del known[next(iter(known))]
        known[key] = program
    return program


@contextmanager
def hidden_programs(model: Any) -> Iterator[None]:
    """What was traced of a model is not found here, and is back on the way out."""
    before = _PROGRAMS.pop(model, None)
    try:
        yield
    finally:
        _PROGRAMS.pop(model, None)
        if before is not None:
            _PROGRAMS[model] = before


def _gives_the_outputs(program: Program, network: Network, x: Tensor) -> bool:
    # A forward may read what no fingerprint holds: globals, attributes of classes.
    state = network.state()
    with torch.no_grad():
        theirs = network.outputs(network.point, x)
        try:
            q = program.head(*(state[name] for name in program.names))
            (ours,) = program.outputs(*q, x)
        except (RuntimeError, KeyError):  # it was of another model in all but its fingerprint
            return False
    if ours.shape != theirs.shape:
        return False
    allowed = torch.finfo(theirs.dtype).eps ** 0.5 * theirs.norm()
    return bool((ours - theirs).norm() <= allowed)


def _traced(network: Network, x: Tensor, *, compiled: bool) -> Program:
    # Real numbers before and after: no symbol of the trace may stay in what a forward remembers.
    _refuse_own_derivatives(network, x)
    try:
        with EVALUATING, network.attributes_kept():
            return Program(
                network.forward, network.state(), list(network.point), x, compiled=compiled
            )
    except Untraceable:
        raise
    except Exception as error:
        raise Untraceable(f"{type(error).__name__}: {str(error)[:120]}") from error
    finally:
        network.outputs(network.point, x)


def _refuse_own_derivatives(network: Network, x: Tensor) -> None:
    """Refuse a forward that holds a ``torch.autograd.Function``: a trace sees its forward alone."""
    with torch.enable_grad():
        outputs = network.outputs(network.leaves(), x)
    todo: list[Any] = [outputs.grad_fn]
    seen: set[Any] = set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, BackwardCFunction):
            raise Untraceable(f"{type(node).__name__} has a derivative of its own")
        todo.extend(function for function, _ in node.next_functions)
