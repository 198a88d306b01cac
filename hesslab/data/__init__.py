"""What is learnt from: generated data whose truth is known, and real data checked before use.

Every function returns a pair ``(train, test)`` of `Dataset`, or one of them where ``split=`` says
so. ``HESSLAB_DATA`` names a folder with real data; what is not there is looked for in the cache
folder and downloaded into it unless ``download=False``. `digits` is real and needs no files.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
