"""Throughput of each part on the machine at hand: `python -m pinnerformer_jax.bench --help`.

Benchmarks run where only jax, flax, optax and numpy are installed, as on many accelerator machines.
Annotations need jaxtyping but are never evaluated. Where it is not installed, a module that has every name
takes its place.
"""

import importlib.util
import sys
import types

if importlib.util.find_spec("jaxtyping") is None:
    _stand_in = types.ModuleType("jaxtyping")
    _stand_in.__getattr__ = lambda name: object
    sys.modules["jaxtyping"] = _stand_in
