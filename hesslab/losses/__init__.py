r"""Losses with their exact output derivatives, per example and unscaled.

Curvature needs three things of a loss :math:`\ell(f, y)`: its value, its gradient with respect to
the outputs :math:`f`, and products with its Hessian :math:`H = \nabla_f^2 \ell`. For the two
everyday likelihoods they have closed forms, which are cheaper and more accurate than
differentiating twice:

- `CrossEntropy`: :math:`H = \mathrm{diag}(p) - p p^T` with
  :math:`S = \mathrm{diag}(\sqrt p) - p \sqrt p^T`, :math:`S S^T = H`;
- `GaussianLikelihood`: :math:`H = I / s^2` with :math:`S = I / s`, :math:`s^2` the noise variance.

Outputs have shape ``[B, ..., C]``: every position counts, and a mean is over examples and
positions, as in torch. Source: Schraudolph (2002), Fast curvature matrix-vector products.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
