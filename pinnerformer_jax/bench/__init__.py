"""What each part costs on the machine at hand: `python -m pinnerformer_jax.bench --help`.

Runs where only jax, flax, optax and numpy are installed, as on many a borrowed accelerator. jaxtyping is
needed for annotations alone, which are never evaluated; where it is absent, any name stands in for its own.
"""

import importlib.util
import sys
import types

if importlib.util.find_spec("jaxtyping") is None:
    _stand_in = types.ModuleType("jaxtyping")
    _stand_in.__getattr__ = lambda name: object
    sys.modules["jaxtyping"] = _stand_in
