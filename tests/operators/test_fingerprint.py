"""What tells one state of a module from another, so that no trace outlives what it has read."""

import collections
import functools
import random
import types
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import hesslab as hl
from hesslab.operators.engine import programs
from hesslab.operators.fingerprint import Opaque, fingerprint

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(7) % 3


class Config:
    def __init__(self, scale):
        self.scale = scale


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale):
        self.scale = scale


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 3).double()
        self.thing = None

    def scale(self):
        thing = self.thing
        if isinstance(thing, types.FunctionType | functools.partial | types.MethodType):
            return thing(1.0)
        while not isinstance(thing, int | float | np.ndarray | torch.Tensor):
            thing = thing[0] if isinstance(thing, list) else thing.scale
        return thing.item() if isinstance(thing, np.ndarray | torch.Tensor) else thing

    def forward(self, x):
        return self.scale() * torch.tanh(self.layer(x))


def times(scale):
    return lambda x: scale * x


def default(scale):
    def function(x, factor=scale):
        return factor * x

    return function


CHANGES = {
    "a number": lambda s: s,
    "a config": Config,
    "a config in a config": lambda s: Config(Config(s)),
    "a config in a list": lambda s: [Config([s])],
    "an array": np.array,
    "a tensor": torch.tensor,
    "a closure": times,
    "a default": default,
    "a partial": lambda s: functools.partial(lambda factor, x: factor * x, s),
    "a method": lambda s: types.MethodType(lambda self, x: self.scale * x, Config(s)),
    "slots": Slotted,
}


@pytest.mark.parametrize("make", CHANGES.values(), ids=CHANGES)
def test_what_a_forward_has_read_changes(make):
    model = Scaled()
    for scale in (1.0, 3.0, 2.0, 1.0):
        model.thing = make(scale)
        H = hl.Hessian(model, hl.losses.CrossEntropy(), (X, Y))
        assert H.plan.traced is not None, H.plan
        v = torch.ones(H.shape[0], dtype=X.dtype)
        H.plan.untraced("for comparison")
        expected = H @ v
        H = hl.Hessian(model, hl.losses.CrossEntropy(), (X, Y))
        torch.testing.assert_close(H @ v, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "change", [lambda t: t.scale.append(1), lambda t: setattr(t.scale[0], "scale", 5.0)]
)
def test_a_change_deep_inside(change):
    model = Scaled()
    model.thing = Config([Config(1.0)])
    before = fingerprint(model)
    assert fingerprint(model) == before
    change(model.thing)
    assert fingerprint(model) != before


def test_an_array_that_is_changed_in_place():
    model = Scaled()
    model.thing = np.array([1.0, 2.0])
    before = fingerprint(model)
    model.thing[1] = 3.0
    assert fingerprint(model) != before


def test_functions_of_equal_code_are_told_apart_by_what_they_hold():
    model = Scaled()
    found = set()
    for scale in (1.0, 2.0, 1.0):
        model.thing = times(scale)
        found.add(fingerprint(model))
    assert len(found) == 2


@pytest.mark.parametrize(
    "thing",
    [
        Slotted(1.0),
        np.array([None]),
        np.zeros(10**5),
        iter([1]),
        bytearray(3),
        random.Random(0),
        type("Queue", (collections.deque,), {})([1]),
    ],
)
def test_what_may_change_unseen(thing):
    model = Scaled()
    model.thing = Config(thing)
    with pytest.raises(Opaque):
        fingerprint(model)


def test_a_model_that_holds_itself():
    model = Scaled()
    model.thing = Config(model)
    model.thing.other = model.thing
    model.reference = weakref.ref(model)
    before = fingerprint(model)
    assert fingerprint(model) == before
    model.thing.more = 1
    assert fingerprint(model) != before


def test_a_name_that_is_not_bound_yet():
    def outer():
        def function(x):
            return later * x

        if random.random() < 2:
            return function
        later = 1

    model = Scaled()
    model.thing = outer()
    with pytest.raises(Opaque):
        fingerprint(model)


FACTOR = {"value": 1.0}


class Reading(nn.Module):
    factor = 1.0

    def __init__(self, read):
        super().__init__()
        self.layer, self.read = nn.Linear(4, 3).double(), read

    def forward(self, x):
        return self.read(self) * self.layer(x).tanh()


@pytest.mark.parametrize(
    ("read", "write"),
    [
        (lambda model: FACTOR["value"], lambda v: FACTOR.update(value=v)),
        (lambda model: model.factor, lambda v: setattr(Reading, "factor", v)),
    ],
    ids=["global", "attribute of the class"],
)
def test_what_no_fingerprint_holds_changes_between_two_operators(read, write):
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y, model, loss = torch.arange(20) % 3, Reading(read), hl.losses.CrossEntropy()
    v = torch.ones(15, dtype=torch.float64)
    try:
        write(1.0)
        hl.Hessian(model, loss, [(x[:4], y[:4]), (x[4:], y[4:])]) @ v
        write(3.0)
        H = hl.Hessian(model, loss, (x[4:], y[4:]))  # its first examples have another shape
        product = H @ v
        assert H.plan.traced is not None
        H.plan.untraced("for comparison")
        torch.testing.assert_close(product, H @ v, rtol=1e-12, atol=0)
    finally:
        write(1.0)


class Kept(list):
    scale = 1.0


def test_attributes_of_containers_and_signs_of_zero():
    model = Scaled()
    found = set()
    for scale in (1.0, 2.0):
        model.thing = Kept([1])
        model.thing.scale = scale
        found.add(fingerprint(model))
    for zero in (0.0, -0.0):
        model.thing = zero
        found.add(fingerprint(model))
    assert len(found) == 4


def test_programs_are_found_again_and_the_oldest_goes_first(monkeypatch):
    monkeypatch.setattr(programs, "PROGRAMS", 3)
    calls = []
    original = programs._traced
    monkeypatch.setattr(
        programs, "_traced", lambda *args, **more: calls.append(1) or original(*args, **more)
    )
    model = Scaled()
    counts = []
    for scale in (1.0, 1.0, 2.0, 3.0, 3.0, 4.0, 2.0, 1.0):
        model.thing = scale
        calls.clear()
        hl.Hessian(model, hl.losses.CrossEntropy(), (X, Y))
        counts.append(len(calls))
    assert counts == [1, 0, 1, 1, 0, 1, 0, 1]
