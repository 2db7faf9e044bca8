"""Evaluate a trained run: python evaluate.py --workdir runs/demo

The same as `pinnerformer evaluate` and `python -m pinnerformer_jax.evaluate`, which see.
"""

import sys

from pinnerformer_jax.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
