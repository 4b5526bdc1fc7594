"""prunelab: structured pruning of convolutional networks, physically, exactly, to a budget.

Public names are listed in ``__init__.pyi`` only; each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
