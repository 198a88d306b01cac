"""From a notebook to the page and to disk: figures, tables, records, the footer, the claims."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
