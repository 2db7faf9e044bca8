"""Train a user and an item tower on a prepared event log.

    python -m pinnerformer_jax.train --config configs/demo.py --workdir runs/demo
        [--training.batch-size 512 ...]

The log must have been prepared: python -m pinnerformer_jax.ingest with the same config. The workdir keeps
the config, the last and the best checkpoint, metrics.jsonl and TensorBoard event files. The same command
resumes a run that was stopped or killed. Ctrl-C and SIGTERM finish the step, save, and exit with 0; wrong
input exits with 2, a training that cannot go on (a loss that is not finite) with 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pinnerformer_jax.command_line import errors_as_messages, parse
from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import differences, to_dict
from pinnerformer_jax.runtime import set_up_process
from pinnerformer_jax.training.loop import TrainingError, open_run, train


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="folder of the run")
    values, config = parse(__doc__, argv, flags)
    set_up_process()
    print(f"{config.name} in {values.workdir}; settings that are not the defaults:")
    for line in differences(to_dict(Config()), to_dict(config)):
        print(f"  {line}")
    with errors_as_messages():
        run, state = open_run(config, values.workdir)
    try:
        train(run, state)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
