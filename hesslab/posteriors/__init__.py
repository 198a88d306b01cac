"""How sure is the network: Gaussian posteriors around trained parameters, and their samples."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
