"""Search of settings with Optuna, on the discounted gain of what is served to validation users
at earlier splits.

    python -m pinnerformer_jax.tune --config configs/yours.py [--workdir runs/tune/yours]
        [--trials 20] [--minutes 120] [--workers 2] [--training.steps 2000]

Searched are learning rate, weight decay, dropout, layers, initial temperature and positions, around those of
the config, which are the first trial. All other settings are the config's. The evaluation window is never
looked at: evaluate the best settings with train and evaluate, once. A trial whose gain is below the median
of the earlier ones at the same checkpoint is pruned. The workdir keeps the trials; the same command goes on
after a stop. The same command started again beside it, on this or another machine that sees the workdir,
shares the trials; --workers N starts N processes here. tune.json has all trials, the best settings as flags
of train, and how much each setting mattered; tune.html shows it. It needs Optuna:
pip install 'pinnerformer_jax[tune]'.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Generator, Sequence
from importlib.util import find_spec
from pathlib import Path

from pinnerformer_jax.command_line import count, errors_as_messages, parse
from pinnerformer_jax.runtime import set_up_process
from pinnerformer_jax.studies.cells import Stopped
from pinnerformer_jax.studies.tune import PAGE, REPORT, tune


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--workdir", type=Path, metavar="DIR", help="default: runs/tune/NAME of the config")
    flags.add_argument("--trials", type=int, default=20, help="in all, earlier calls too; default 20")
    flags.add_argument("--minutes", type=float, default=float("inf"), help="then no further trial starts")
    flags.add_argument("--workers", type=count, default=1, metavar="N", help="processes; default 1")
    values, config = parse(__doc__, argv, flags)
    set_up_process()
    with errors_as_messages():
        if find_spec("optuna") is None:
            raise ValueError("tune needs Optuna: pip install 'pinnerformer_jax[tune]'")
        workdir = values.workdir or Path("runs/tune") / config.name
        try:
            with _others(values.workers - 1, sys.argv[1:] if argv is None else argv):
                found = tune(config, workdir, values.trials, values.minutes)
            if values.workers > 1:  # the others have ended since
                found = tune(config, workdir, 0, 0)
        except (Stopped, KeyboardInterrupt):
            print("stopped; the workdir keeps the trials, and the same command goes on")
            return 0
    print(
        f"{len(found['trials'])} finished, {found['pruned']} pruned, {found['failed']} failed or were cut off"
    )
    for trial in found["trials"][:5]:
        settings = ", ".join(f"{name} {value:.4g}" for name, value in trial["settings"].items())
        print(f"  discounted gain {trial['gain']:.4f}  trial {trial['number']}: {settings}")
    for name, share in found["importances"].items():
        print(f"  {name} explains {share:.0%} of the differences")
    print(f"train with: {found['command']}\nall trials: {workdir / REPORT}")
    print(f"page: {(workdir / PAGE).absolute().as_uri()}")
    return 0


@contextlib.contextmanager
def _others(number: int, argv: Sequence[str]) -> Generator[None, None, None]:
    """So many further processes of the same command; at the end they are waited for, or, after an error,
    asked to stop first."""
    command = [sys.executable, "-m", "pinnerformer_jax.tune", *argv, "--workers", "1"]
    children = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(number)]
    try:
        yield
    except BaseException:
        for child in children:
            child.terminate()
        raise
    finally:
        for child in children:
            child.wait()


if __name__ == "__main__":
    sys.exit(main())
