"""The same products by torch alone and by other packages, each in the form that suits it best."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from _candidates import Absent, Candidate, Run
from _networks import Setting
from torch.nn.attention import SDPBackend, sdpa_kernel

PACKAGES = {
    "curvlinops": "curvlinops-for-pytorch",
    "backpack": "backpack-for-pytorch",
    "pyhessian": "PyHessian",
    "hessian_eigenthings": "hessian-eigenthings",
}


def peer(module: str) -> Any:
    """Another package, or the reason why it is not measured."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = PACKAGES[module.partition(".")[0]]
        raise Absent(f"{package} cannot be imported here: {error}") from error


def _second_order(start: Callable[[Setting], Run]) -> Callable[[Setting], Run]:
    """Attention by the kernel that has second derivatives; without it these routes fail."""

    def begin(s: Setting) -> Run:
        with sdpa_kernel(SDPBackend.MATH):
            run = start(s)

        def again() -> Any:
            with sdpa_kernel(SDPBackend.MATH):
                return run()

        return again

    return begin


def _double_backward(s: Setting) -> Run:
    parameters, v = s.parameters, s.split(s.v)

    def run() -> Any:
        loss = s.loss(s.model(s.x), s.y)
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        return torch.autograd.grad(gradient, parameters, v)

    return run


def _functional(s: Setting) -> tuple[dict[str, Any], dict[str, Any]]:
    """The point and the direction as torch.func wants them."""
    point = {name: p.detach() for name, p in s.model.named_parameters()}
    return point, dict(zip(point, s.split(s.v), strict=True))


def _outputs(s: Setting) -> Callable[[dict[str, Any]], Any]:
    return lambda point: torch.func.functional_call(s.model, point, (s.x,))


def _jvp_of_gradient(s: Setting) -> Run:
    point, direction = _functional(s)
    outputs = _outputs(s)
    gradient = torch.func.grad(lambda point: s.loss(outputs(point), s.y))
    return lambda: torch.func.jvp(gradient, (point,), (direction,))[1]


def _jvp_of_outputs(s: Setting) -> Run:
    point, direction = _functional(s)
    return lambda: torch.func.jvp(_outputs(s), (point,), (direction,))[1].flatten()


def _kept_vjp(s: Setting) -> Run:
    parameters, outputs = s.parameters, s.model(s.x)
    u = s.u.view_as(outputs)
    return lambda: torch.autograd.grad(outputs, parameters, u, retain_graph=True)


def _pyhessian(s: Setting) -> Run:
    utils, v = peer("pyhessian.utils"), s.split(s.v)
    with warnings.catch_warnings():  # its graph and its gradients hold each other, as it says
        warnings.simplefilter("ignore", UserWarning)
        kept = peer("pyhessian").hessian(
            copy.deepcopy(s.model), s.loss, data=(s.x, s.y), cuda=s.x.is_cuda
        )
    return lambda: utils.hessian_vector_product(kept.gradsH, kept.params, v)


def _backpack(s: Setting) -> Run:
    multiply = peer("backpack.hessianfree.ggnvp").ggn_vector_product_from_plist
    parameters, v = s.parameters, s.split(s.v)
    outputs = s.model(s.x)
    loss = s.loss(outputs, s.y)
    return lambda: multiply(loss, outputs, parameters, v)


def _curvlinops(kind: str, times: str, *, compiled: bool = False) -> Callable[[Setting], Run]:
    def start(s: Setting) -> Run:
        build = getattr(peer("curvlinops"), kind)
        functions = (s.model,) if "Jacobian" in kind else (s.model, s.loss)
        # Its check at construction costs two products, ours too; neither is part of a product.
        operator = build(*functions, s.parameters, [(s.x, s.y)], check_deterministic=False)
        if compiled:
            operator._mp = torch.compile(operator._mp)
        v = getattr(s, times)
        return lambda: operator @ v

    return start


_EAGER, _COMPILED = "curvlinops", "curvlinops, compiled"
_HESSIAN, _GGN = "HessianLinearOperator", "GGNLinearOperator"
_LISTED = [
    Candidate("hessian", "double backward", _double_backward, "hessian, first", alone=True),
    Candidate("hessian", "jvp(grad)", _jvp_of_gradient, "hessian, first", alone=True),
    Candidate("hessian", _EAGER, _curvlinops(_HESSIAN, "v"), "hessian, first", alone=True),
    Candidate("hessian", "PyHessian, kept graph", _pyhessian, "hessian"),
    Candidate("hessian block", _EAGER, _curvlinops(_HESSIAN, "V"), "hessian"),
    Candidate("ggn", _EAGER, _curvlinops(_GGN, "v"), "ggn, first", alone=True),
    Candidate("ggn", "BackPACK, kept graph", _backpack, "ggn"),
    Candidate("ggn block", _EAGER, _curvlinops(_GGN, "V"), "ggn"),
    Candidate("jvp", "torch.func.jvp", _jvp_of_outputs, "jvp"),
    Candidate("jvp", _EAGER, _curvlinops("JacobianLinearOperator", "v"), "jvp"),
    Candidate("vjp", "kept graph", _kept_vjp, "vjp"),
    Candidate("vjp", _EAGER, _curvlinops("TransposedJacobianLinearOperator", "u"), "vjp"),
    # On a CPU inductor needs minutes for a convolutional network and loses to eager kernels.
    *(
        Candidate(
            product,
            _COMPILED,
            _curvlinops(kind, "v", compiled=True),
            f"{product}, first",
            device="cuda",
        )
        for product, kind in (("hessian", _HESSIAN), ("ggn", _GGN))
    ),
]
PEERS = [
    Candidate(c.product, c.route, _second_order(c.start), c.work, c.fresh, c.alone, c.device)
    for c in _LISTED
]
