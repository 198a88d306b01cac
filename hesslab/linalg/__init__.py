"""Eigenvalues of any symmetric matrix with ``shape``, ``dtype``, ``device`` and ``@``.

>>> import hesslab as hl, torch
>>> A = torch.diag(torch.tensor([5.0, 3.0, 1.0, 0.0, -2.0], dtype=torch.float64))
>>> pairs = hl.linalg.eigsh(A, k=2)
>>> pairs.values
tensor([5.0000, 3.0000], dtype=torch.float64)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
