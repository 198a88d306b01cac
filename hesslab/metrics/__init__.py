"""Scores of predictions and of spectra, each with its error; they take arrays or tensors."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
