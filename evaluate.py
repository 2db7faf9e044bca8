"""Evaluate a trained run: python evaluate.py --workdir runs/demo

The same as `pinnerformer evaluate`; pinnerformer_jax/evaluate.py says what it reads, does and leaves.
"""

import sys

from pinnerformer_jax.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
