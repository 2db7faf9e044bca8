"""Train a user and an item tower on a prepared event log.

    python -m pinnerformer_jax.train --config configs/demo.py --workdir runs/demo
        [--training.batch-size 512 ...]

The log must have been prepared: python -m pinnerformer_jax.ingest with the same config. The workdir keeps
the config, the last and the best checkpoint, metrics.jsonl and TensorBoard event files. The same command
resumes a run that was stopped or killed. The best checkpoint is the one of the highest recall@10 on
validation users at splits before t, or, where that cannot tell, of their lowest loss. When some checkpoints
were no better than the best, training ends (--training.patience). Ctrl-C and SIGTERM finish the step, save,
and exit with 0; wrong input exits with 2, a training that cannot go on (a loss that is not finite) with 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pinnerformer_jax.command_line import errors_as_messages, parse
from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import differences, to_dict
from pinnerformer_jax.evaluation.validation_recall import validation_recall
from pinnerformer_jax.files import folder_lock
from pinnerformer_jax.objective.targets import Objective
from pinnerformer_jax.runtime import set_up_process
from pinnerformer_jax.training.loop import Run, TrainingError, open_run, train
from pinnerformer_jax.training.sizes import sized_by_log
from pinnerformer_jax.training.state import TrainState


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="folder of the run")
    values, config = parse(__doc__, argv, flags)
    set_up_process()
    with errors_as_messages():
        config = sized_by_log(config)
    print(f"{config.name} in {values.workdir}; settings that are not the defaults:")
    for line in differences(to_dict(Config()), to_dict(config)):
        print(f"  {line}")
    try:
        with errors_as_messages(), folder_lock(values.workdir):
            train(*_open(config, values.workdir))
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def fit(config: Config, workdir: str | Path, *, objective: Objective | None = None) -> TrainState:
    """Train to the last step in a workdir, or resume the run that was stopped there.

    The workdir keeps the config, the last and the best checkpoint, metrics.jsonl and TensorBoard files.
    SIGINT or SIGTERM ends the training early and saves it; the same call resumes.

    Args:
        config: the experiment; `prepare` must have prepared its data.
        workdir: folder of the run, created if it does not exist.
        objective: a function that chooses the pairs instead of the one that `config.objective.name` names,
            see `objective.targets.Objective`. It is not saved: pass the same one to resume.

    Returns:
        The state as it was saved: parameters, optimiser state, sketch, step.

    Raises:
        FileNotFoundError: the data were never prepared.
        ValueError: data, config and workdir do not fit each other, or another process is training in this
            workdir. The message says what to change.
        TrainingError: the training cannot go on: a loss that is not finite, or no pair to train on.
    """
    config = sized_by_log(config)
    with folder_lock(Path(workdir)):
        return train(*_open(config, Path(workdir), objective))


def _open(config: Config, workdir: Path, objective: Objective | None = None) -> tuple[Run, TrainState]:
    recall = validation_recall(config)
    opened = open_run(config, workdir, objective, recall)
    if recall:
        recall.timelines.check()  # the run's are the same
    return opened


if __name__ == "__main__":
    sys.exit(main())
