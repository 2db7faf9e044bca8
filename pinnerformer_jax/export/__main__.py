"""Both towers as files that serve without this package: ONNX, and programs of jax.export.

    python -m pinnerformer_jax.export --workdir RUN --out DIR [--formats onnx jax]

Files of DIR:

    contract.json            inputs, outputs, vocabularies, time, padding, the served score, versions
    user_tower.onnx          histories of users -> their vectors; a batch of any size
    item_tower.onnx          vectors of the catalogue -> vectors of items; likewise
    user_tower.jax_export    the same for JAX on CPU, CUDA and TPU. JAX promises to load such a file for six
    item_tower.jax_export        months; contract.json has the day
    item_vectors.npy         the catalogue's vectors, float16 [C, D_item]
    items.parquet            their items' ids and titles, in the same order
    golden.npz               inputs of some users and items of the training, and their vectors

All is float32, also if the training was not. Each file is read back and run on golden.npz; if its vectors are
not those of this package, nothing is written. An older export in DIR is replaced. golden.npz has histories of
real users, without their ids.

ONNX needs jax2onnx. That asks for an old Orbax, which it does not use, so that it is installed by itself:

    pip install 'pinnerformer_jax[export]' && pip install --no-deps jax2onnx

How to serve the files: docs/export.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pinnerformer_jax.command_line import errors_as_messages
from pinnerformer_jax.export.folder import export
from pinnerformer_jax.export.formats import FORMATS
from pinnerformer_jax.runtime import set_up_process


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pinnerformer_jax.export",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workdir", type=Path, required=True, metavar="RUN", help="folder of the trained run"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=FORMATS, help="of the towers; default: both"
    )
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="default: best")
    parser.add_argument(
        "--data.prepared", dest="prepared", type=Path, metavar="DIR",
        help="where the run's prepared folder is now (default: where the training found it)",
    )  # fmt: skip
    values = parser.parse_args(argv)
    set_up_process()
    with errors_as_messages():
        differences = export(
            values.workdir,
            values.out,
            formats=tuple(dict.fromkeys(values.formats)),
            checkpoint=values.checkpoint,
            prepared=values.prepared,
        )
    for name, largest in differences.items():
        size = (values.out / name).stat().st_size / 2**20
        print(f"{name}: {size:,.1f} MiB, differs by at most {largest:.1e} from this package's vectors")
    print(f"written to {values.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
