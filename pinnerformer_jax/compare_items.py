"""Compare the ways to make item vectors: item to item, and by the PinnerFormer that is trained on them.

    python -m pinnerformer_jax.compare_items --config configs/yours.py [--workdir runs/items/yours]
        [--seeds 3] [--methods pinsage svd text given] [--training.steps 300]

Each method makes vectors with each seed, and a PinnerFormer is trained on them with that seed; all have the
same settings. `given` are the vectors of the item table, if it has any. The workdir keeps vectors and
trainings, so that a stopped command resumes. The command prints means and standard deviations over the
seeds, and writes them to compare.json and compare.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pinnerformer_jax.command_line import errors_as_messages, parse
from pinnerformer_jax.files import folder_lock
from pinnerformer_jax.items.methods import Method
from pinnerformer_jax.runtime import set_up_process
from pinnerformer_jax.studies.cells import Stopped
from pinnerformer_jax.studies.compare_items import GIVEN, compare_methods, write_comparison


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--workdir", type=Path, metavar="DIR", help="default: runs/items/NAME of the config")
    flags.add_argument("--seeds", type=int, default=3, help="of each method, default 3")
    choices = (*get_args(Method), GIVEN)
    flags.add_argument("--methods", nargs="+", choices=choices, help="default: all that there are")
    values, config = parse(__doc__, argv, flags)
    set_up_process()
    with errors_as_messages():
        if values.seeds < 1:
            raise ValueError(f"--seeds {values.seeds}: must be at least 1")
        if GIVEN in (values.methods or ()) and not config.items.vector:
            raise ValueError("--methods given: items.vector names none")
        methods: list[Any] = values.methods or [
            name for name in choices if name != GIVEN or config.items.vector
        ]
        workdir = values.workdir or Path("runs/items") / config.name
        try:
            with folder_lock(workdir):
                numbers, pairs = compare_methods(config, methods, values.seeds, workdir)
        except (Stopped, KeyboardInterrupt):
            print("stopped; the workdir keeps what is finished, and the same command resumes")
            return 0
        write_comparison(config, numbers, pairs, workdir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
