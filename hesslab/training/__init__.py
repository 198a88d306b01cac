"""Training: one loop for any torch optimizer, reproducible, resumable and silent in notebooks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
