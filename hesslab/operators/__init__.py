"""The matrices of any network on any data, as things that multiply.

>>> import hesslab as hl, torch
>>> model = torch.nn.Linear(2, 1, bias=False)
>>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
>>> H = hl.Hessian(model, torch.nn.MSELoss(), (x, torch.zeros(2, 1)))
>>> H @ torch.tensor([1.0, 1.0])  # the Hessian of mean((x w)^2) is 2 x^T x / 2
tensor([1., 4.])
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
