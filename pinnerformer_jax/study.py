"""Train and measure every variant of a study with several seeds, and set the paper's tables beside ours.

    python -m pinnerformer_jax.study --config configs/studies/synthetic.py \\
        [--workdir runs/studies/synthetic] [--seeds 3] [--only staleness objectives] [--training.steps 300]

The data must have been prepared. Settings on the command line change the base of all variants. A variant
that several tables show is trained once. The workdir keeps one folder a cell (variant and seed),
study.json, report.html and report.md; the command writes these three whenever it ends. Ctrl-C and SIGTERM
save the cell in training and exit with 0; the same command then resumes. If a cell fails, the command
reports it, continues with the others and exits with 1. The next call tries the cell again, unless its loss
was not finite.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pinnerformer_jax.command_line import errors_as_messages, parse
from pinnerformer_jax.files import folder_lock
from pinnerformer_jax.runtime import set_up_process
from pinnerformer_jax.studies.study import Study, load_tables, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--workdir", type=Path, metavar="DIR", help="default: runs/studies/NAME of the file")
    flags.add_argument("--seeds", type=int, default=3, help="trainings of each variant, default 3")
    flags.add_argument("--only", nargs="+", metavar="TABLE", help="these tables and no others")
    values, config = parse(__doc__, argv, flags)
    workdir = values.workdir or Path("runs/studies") / Path(values.config).stem
    set_up_process()
    with errors_as_messages(), folder_lock(workdir):
        failed = run(Study(config, load_tables(values.config, values.only), values.seeds), workdir)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
