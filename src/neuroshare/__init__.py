"""One latent space for the spiking of several subjects.

Every public name is loaded when it is first used (SPEC 1), so that ``import neuroshare`` costs
little and pulls in neither torch nor pynwb. The names are listed in ``__init__.pyi``.
"""

import lazy_loader as _lazy

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
