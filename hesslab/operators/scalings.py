"""Diagonals through which a curvature matrix is looked at: `Operator.congruence` takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from hesslab.errors import NotFinite
from hesslab.operators.parameters import choose


def filter_norms(
    model: nn.Module, parameters: str | Sequence[str] | None = None
) -> dict[str, Tensor]:
    r"""For each parameter the norm of the filter that it belongs to: filter normalisation.

    With :math:`D` the diagonal of these, :math:`D H D` does not change when the weights of one
    layer of a ReLU network are multiplied by a number and those of the next divided by it, which
    moves the eigenvalues of :math:`H` anywhere. A filter is what makes one output of a layer: a row
    of a linear weight, an output channel of a convolution, a row of an embedding. Entries of
    parameters with one dimension (biases, gains) have their own modulus: with the norm of their
    filter instead, D H D would not be invariant.

    Args:
        model: at the parameters of the matrix.
        parameters: names or shell patterns; None means those that require a gradient.

    Returns:
        A tensor of its parameter's shape for each name, for ``A.congruence(...)``.

    Raises:
        ValueError: a name or pattern matches no parameter, or none requires a gradient.

    Source: Li, Xu, Taylor, Studer and Goldstein (2018), Visualizing the loss landscape of neural
    nets; Dinh, Pascanu, Bengio and Bengio (2017), Sharp minima can generalize for deep nets.
    """
    groups = {
        f"{prefix}.weight".lstrip("."): module.groups
        for prefix, module in model.named_modules()
        if isinstance(module, _ConvTransposeNd)
    }
    with torch.no_grad():
        return {
            name: _filters(parameter.detach(), groups.get(name))
            for name, parameter in _chosen(model, parameters)
        }


def _filters(w: Tensor, groups: int | None) -> Tensor:
    """Norms of the filters of a weight, of its shape; ``groups`` of a transposed convolution."""
    if w.ndim < 2:
        return w.abs()
    inside: tuple[int, ...] = (1,)
    if groups is None:
        filters = w.flatten(1)
    else:  # [in, out / groups, ...]: each group of inputs makes outputs of its own
        filters, inside = w.unflatten(0, (groups, -1)).flatten(3), (1, 3)
    norms: Tensor = torch.linalg.vector_norm(filters, dim=inside, keepdim=True)
    return norms.expand_as(filters).reshape(w.shape).clone()


def adam_scaling(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    parameters: str | Sequence[str] | None = None,
) -> dict[str, Tensor]:
    r"""Adam's coordinates: :math:`d = (\sqrt{\hat v} + \epsilon)^{-1/2}` for each parameter.

    Adam divides its step by :math:`\sqrt{\hat v} + \epsilon`, so that the curvature that it meets
    is :math:`\mathrm{diag}(d)^2 H`; ``H.congruence(d)`` is symmetric and has the same eigenvalues.
    Where :math:`\sqrt{\hat v} \gg \epsilon`, d is :math:`\hat v^{-1/4}`. The second moment
    :math:`\hat v = v / (1 - \beta_2^t)` is corrected for its start at zero, and is the largest
    so far with ``amsgrad=True``. Learning rate, momentum and weight decay are no part of it.

    Args:
        optimizer: ``torch.optim.Adam``, ``AdamW`` or another that keeps ``exp_avg_sq`` and
            ``step``, after at least one step.
        model: whose parameters it holds.
        parameters: names or shell patterns; None means those that require a gradient.

    Returns:
        A tensor of its parameter's shape for each name, for ``A.congruence(...)``.

    Raises:
        ValueError: a parameter is not the optimizer's or has no second moment yet, or a name or
            pattern matches none.
        TypeError: the optimizer uses its second moment in another way.
        NotFinite: an entry is infinite (a second moment of zero and eps=0), or NaN.

    Source: Kingma and Ba (2015), Adam; Cohen et al. (2022), Adaptive gradient methods at the edge
    of stability.
    """
    if isinstance(optimizer, torch.optim.RAdam):
        raise TypeError("RAdam does not always divide by its second moment; expected Adam or AdamW")
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    scaling = {}
    for name, parameter in _chosen(model, parameters):
        if id(parameter) not in groups:
            raise ValueError(
                f"{name} is not a parameter of the optimizer; was the model rebuilt or moved "
                "after the optimizer was made? Leave it out with parameters=[...]"
            )
        scaling[name] = _second_moment_root(
            name, optimizer.state.get(parameter, {}), groups[id(parameter)]
        ).rsqrt()
        if not bool(scaling[name].isfinite().all()):
            raise NotFinite(
                f"the scaling of {name} is infinite or NaN: its second moment is zero and eps is "
                f"{groups[id(parameter)]['eps']}, or the training diverged"
            )
    return scaling


def _second_moment_root(name: str, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """What Adam divides by, of the parameter's shape."""
    if not {"exp_avg_sq", "step"} <= set(state) or not {"betas", "eps"} <= set(group):
        raise ValueError(
            f"the optimizer keeps no second moment of {name} (exp_avg_sq, step, betas and eps); "
            "expected Adam or AdamW after at least one step in which the parameter had a gradient"
        )
    moment = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
    correction = 1 - group["betas"][1] ** float(state["step"])
    root: Tensor = (moment.detach() / correction).sqrt() + float(group["eps"])
    return root


def _chosen(
    model: nn.Module, parameters: str | Sequence[str] | None
) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters, chosen as by an operator."""
    named = dict(model.named_parameters())
    return ((name, named[name]) for name in choose(named, parameters))
