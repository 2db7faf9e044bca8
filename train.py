"""Train on a prepared event log: python train.py --config configs/demo.py --workdir runs/demo

The same as `pinnerformer train`; pinnerformer_jax/train.py says what it reads, does and leaves.
"""

import sys

from pinnerformer_jax.train import main

if __name__ == "__main__":
    sys.exit(main())
