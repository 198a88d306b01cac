"""What an operator is held to when it is built, on a few examples: what every product relies on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from hesslab.data.batches import Batch
from hesslab.errors import NotDeterministic
from hesslab.losses import Loss
from hesslab.losses.adapters import is_plain

# By how much a traced product may differ from autograd's in one parameter, relative to it. Where a
# model ends in a softmax and is sure, autograd cancels 7 of its 16 digits.
ALLOWED = {torch.float32: 1e-4, torch.float64: 1e-8}
# What rounding explains of the other checks, relative. A float64 model may hold a cast to float32.
ROUNDING = {torch.float32: 3e-4, torch.float64: 1e-6}


def check_fixed(one: Tensor, two: Tensor) -> None:
    """Refuse two products of one vector that differ.

    Raises:
        NotDeterministic: they do; the message names the cause.
    """
    # Sums on CUDA may be reordered; on the CPU a repeated product is equal to the bit.
    allowed = 1e-5 * one.norm() if one.device.type == "cuda" else 0.0
    difference = (one - two).norm()
    if bool(difference > allowed):
        raise NotDeterministic(
            "the same product taken twice on the first batch differs by "
            f"{float(difference / one.norm()):.1e} of its norm: the model's forward draws "
            "random numbers (a functional dropout with training=True?) or keeps a state; "
            "a curvature matrix needs a fixed function"
        )


def check_symmetric(kind: str, v: Tensor, Av: Tensor, AAv: Tensor) -> None:
    r"""Refuse an A for which :math:`v^T A A v` is not :math:`|A v|^2`.

    What a wrong layer leaves out symmetrically is not seen.

    Raises:
        ValueError: it is not.
    """
    # A random u would be nearly orthogonal to A v, and hide a wrong part of a large network. v is
    # nearly orthogonal to A A v, and the sum of float32 products would be rounding.
    square = float(Av.double() @ Av.double())
    apart = abs(float(v.double() @ AAv.double()) - square) / square if square else 0.0
    if apart > ROUNDING[v.dtype]:
        raise ValueError(
            f"the {kind} of this model is not symmetric: v.AAv and |Av|^2 differ by {apart:.1e} "
            "of the latter. One of its layers has a wrong second derivative (an autograd.Function "
            "whose backward cannot be differentiated?): write that layer in plain operations"
        )


def check_sum(gradient: Callable[[slice], Tensor], count: int, *, along: int | None = None) -> None:
    """Refuse a gradient of some examples that is not the sum over its parts.

    Args:
        gradient: of the terms of some examples.
        count: examples at hand; one alone has no parts.
        along: None, or the dimension on which examples lie, where parts are rows of the whole.

    Raises:
        ValueError: they differ.
    """
    cut = count // 3 + 1
    if cut >= count:
        return
    whole, *pieces = (gradient(part) for part in (slice(None), slice(cut), slice(cut, None)))
    total = pieces[0] + pieces[1] if along is None else torch.cat(pieces, along)
    size = sum(float(piece.norm()) for piece in pieces)
    difference = float((whole - total).norm())
    if difference > ROUNDING[whole.dtype] * size:
        raise ValueError(
            f"the gradient of {count} examples is not the sum over its parts: they differ by "
            f"{difference / size:.1e}. Either the outputs depend on other examples of the "
            "batch (batch statistics in forward), or the loss is no mean over examples "
            "(a sum, or a mean over those that are not masked)"
        )


def check_loss(loss: Loss, outputs: Callable[[], Tensor], y: Tensor) -> None:
    """Refuse a loss of somebody else whose closed forms are not the derivatives of its sum.

    Args:
        loss: one of this package, which tests cover, needs no outputs.
        outputs: computes those of some examples.
        y: their targets.

    Raises:
        ValueError: they are not.
    """
    if _is_ours(loss):
        return
    f = outputs().detach().double().requires_grad_()
    y = y.double() if y.is_floating_point() else y
    u = torch.randn(f.shape, generator=torch.Generator().manual_seed(0)).to(f)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss.sum(f, y), f, create_graph=True)
        bend = torch.zeros_like(f)
        if gradient.requires_grad:
            (bend,) = torch.autograd.grad(gradient, f, u, materialize_grads=True)
    f = f.detach()
    found = {"gradient": loss.gradient(f, y), "hessian_product": loss.hessian_product(f, u, y)}
    for (name, ours), theirs in zip(found.items(), (gradient.detach(), bend), strict=True):
        difference = float((ours - theirs).norm())
        if not difference <= 1e-6 * float(theirs.norm()) + 1e-10 * float(u.norm()):
            raise ValueError(
                f"{name} of {loss} is not the derivative of its sum: they differ by "
                f"{difference:.1e} for the first {len(f)} examples; correct one of them, or pass "
                "a plain callable (outputs, targets) -> mean, which autograd differentiates"
            )


def check_mean(loss: Loss, outputs: Callable[[Tensor], Tensor], batches: Iterable[Batch]) -> None:
    """Refuse somebody else's loss that is no mean over examples, in a batch or across two.

    Such a one depends on how the examples are cut into batches. A few examples do not show it:
    those that a mask leaves out may come late, and classes of other weights in other batches.

    Args:
        loss: one of this package needs no look at the data.
        outputs: computes those of a batch's inputs.
        batches: all of them.

    Raises:
        ValueError: it is none.
    """
    if _is_ours(loss) and not is_plain(loss):
        return
    before: Batch | None = None
    for x, y in batches:
        f = outputs(x)
        _check_parts(loss, f, y)
        ends = f[:2], y[:2]
        if before is not None and [t.shape[1:] for t in before] == [t.shape[1:] for t in ends]:
            _check_parts(loss, *(torch.cat(two) for two in zip(before, ends, strict=True)))
        before = f[-2:], y[-2:]


def _check_parts(loss: Loss, f: Tensor, y: Tensor) -> None:
    check_sum(lambda part: loss.gradient(f[part], y[part]), len(f), along=0)


def _is_ours(loss: Loss) -> bool:
    return type(loss).__module__.partition(".")[0] == __name__.partition(".")[0]


def largest_difference(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> tuple[float, str]:
    """How far two products are apart, parameter by parameter.

    What is rounding of the whole product does not count against a parameter whose part is small.
    NaN counts as infinite.

    Returns:
        The largest difference relative to the parameter's part, and the parameter's name.
    """
    norm = torch.stack([part.norm() for part in theirs.values()]).norm()
    apart = {}
    for name, part in theirs.items():
        rounding = torch.finfo(part.dtype).eps ** 0.75 * norm / ALLOWED[part.dtype]
        difference = (ours[name] - part).norm()
        relative = float(difference / (part.norm() + rounding)) if difference != 0 else 0.0
        apart[name] = relative if relative >= 0 else torch.inf
    name = max(apart, key=apart.__getitem__)
    return apart[name], name
