"""Search of settings with Optuna, on recall@10 of validation users at earlier splits.

    python -m pinnerformer_jax.tune --config configs/yours.py [--workdir runs/tune/yours]
        [--trials 20] [--minutes 120] [--training.steps 2000]

Searched are learning rate, weight decay, dropout, layers, initial temperature and positions, around those of
the config, which are the first trial. All other settings are the config's. The evaluation window is never
looked at: evaluate the best settings with train and evaluate, once. A trial whose recall is below the median
of the earlier ones at the same checkpoint is pruned. The workdir keeps the trials; the same command goes on
after a stop. tune.json has all trials, the best settings as flags of train, and how much each setting
mattered. It needs Optuna: pip install 'pinnerformer_jax[tune]'.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pinnerformer_jax.command_line import errors_as_messages, parse
from pinnerformer_jax.files import folder_lock
from pinnerformer_jax.runtime import set_up_process
from pinnerformer_jax.studies.cells import Stopped
from pinnerformer_jax.studies.tune import REPORT, tune


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--workdir", type=Path, metavar="DIR", help="default: runs/tune/NAME of the config")
    flags.add_argument("--trials", type=int, default=20, help="in all, earlier calls too; default 20")
    flags.add_argument("--minutes", type=float, default=float("inf"), help="then no further trial starts")
    values, config = parse(__doc__, argv, flags)
    set_up_process()
    with errors_as_messages():
        if find_spec("optuna") is None:
            raise ValueError("tune needs Optuna: pip install 'pinnerformer_jax[tune]'")
        workdir = values.workdir or Path("runs/tune") / config.name
        try:
            with folder_lock(workdir):
                found = tune(config, workdir, values.trials, values.minutes)
        except (Stopped, KeyboardInterrupt):
            print("stopped; the workdir keeps the trials, and the same command goes on")
            return 0
    print(f"{len(found['trials'])} finished, {found['pruned']} pruned, {found['failed']} failed")
    for trial in found["trials"][:5]:
        settings = ", ".join(f"{name} {value:.4g}" for name, value in trial["settings"].items())
        print(f"  recall@10 {trial['recall@10']:.4f}  trial {trial['number']}: {settings}")
    for name, share in found["importances"].items():
        print(f"  {name} explains {share:.0%} of the differences")
    print(f"train with: {found['command']}\nall trials: {workdir / REPORT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
