"""Train a user and an item tower on a prepared event log.

    python -m pinnerformer_jax.train --config configs/demo.py --workdir runs/demo
        [--training.batch-size 512 ...]
    python -m pinnerformer_jax.train --final runs/demo --workdir runs/demo-final
    python -m pinnerformer_jax.train ... --hosts auto
    python -m pinnerformer_jax.train ... --hosts ADDRESS:PORT --host-count N --host-index I

The log must have been prepared: python -m pinnerformer_jax.ingest with the same config. The workdir keeps
the config, the last and the best checkpoint, metrics.jsonl and TensorBoard event files. The same command
resumes a run that was stopped or killed. The best checkpoint is the one whose served score, priors included,
has the highest discounted gain for validation users at splits before t; that may be step 0, before any
training. When some checkpoints were no better than the best, training ends (--training.patience). Ctrl-C and
SIGTERM finish the step, save, and exit with 0; wrong input exits with 2, a training that cannot go on (a loss
that is not finite) with 1.

--final RUN trains the model to serve, once `evaluate` has measured RUN: on all users, also those whom the
evaluation held out, and up to the last day of the log. It ingests the log into WORKDIR/prepared, and trains
with the settings of RUN for as many epochs as its best checkpoint had. It takes the priors of RUN. It needs
no --config. For the log of a later day: --data.events FILES and, if there is one, --items.table FILE. Such a
run cannot be evaluated, as it has seen everybody.

--hosts trains by several processes, one a machine or a GPU, that all run this command and see the same
folders. auto: Slurm, Open MPI or a TPU pod says who they are; otherwise name the address of process 0, how
many there are, and which this one is. The results are those of one process with as many devices, and a run
may go on with another number of processes. docs/scale.md has recipes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pinnerformer_jax.command_line import errors_as_messages, parse
from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import differences, to_dict
from pinnerformer_jax.data.contracts import format_time
from pinnerformer_jax.data.timelines import MANIFEST, Timelines
from pinnerformer_jax.data.windows import Windows
from pinnerformer_jax.evaluation.validation_gain import validation_gain
from pinnerformer_jax.files import folder_lock
from pinnerformer_jax.ingestion.ingest import prepare
from pinnerformer_jax.items.prepared_copy import made_by
from pinnerformer_jax.objective.targets import Objective
from pinnerformer_jax.retrieval.priors import read_priors, write_priors
from pinnerformer_jax.runtime import set_up_process
from pinnerformer_jax.training import hosts
from pinnerformer_jax.training.checkpoint import Checkpoints, open_data
from pinnerformer_jax.training.final import (
    Origin,
    as_many_epochs,
    check_not_final,
    on_everything,
    write_origin,
)
from pinnerformer_jax.training.item_table import split_over_own
from pinnerformer_jax.training.loop import Run, TrainingError, open_run, train
from pinnerformer_jax.training.run_record import forbidden_changes, read_record
from pinnerformer_jax.training.sizes import sized_by_log
from pinnerformer_jax.training.state import TrainState
from pinnerformer_jax.training.supervisor import Tell, supervised


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="folder of the run")
    flags.add_argument("--final", type=Path, metavar="RUN", help="an evaluated run: train on all it had")
    flags.add_argument("--hosts", metavar="WHERE", help="train by several processes: auto or ADDRESS:PORT")
    flags.add_argument("--host-count", type=int, metavar="N", help="how many processes")
    flags.add_argument("--host-index", type=int, metavar="I", help="which of them this is, from 0")
    values, config = parse(
        __doc__, argv, flags, lambda given: given.final and final_config(given.final, given.workdir)
    )
    with errors_as_messages():
        if not values.hosts and (values.host_count, values.host_index) != (None, None):
            raise ValueError("--host-count and --host-index need --hosts ADDRESS:PORT")
    if values.hosts:
        return supervised(values.workdir, lambda tell: _one_of_several(values, config, tell))
    set_up_process()
    return _train(config, values)


def _one_of_several(values: argparse.Namespace, config: Config, tell: Tell) -> int:
    with errors_as_messages():  # before the heap is shared: the connection has threads of its own
        hosts.join(values.hosts, values.host_count, values.host_index)
    set_up_process()
    if not hosts.several():
        return _train(config, values)
    with hosts.ended_together(values.workdir, tell), hosts.first_speaks():
        if code := _train(config, values):
            raise SystemExit(code)
    return 0


def _train(config: Config, values: argparse.Namespace) -> int:
    try:
        with errors_as_messages():
            if values.final:
                fit_final(values.final, values.workdir, config)
            else:
                _fit(config, values.workdir)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _fit(config: Config, workdir: Path) -> None:
    config = sized_by_log(config)
    print(f"{config.name} in {workdir}; settings that are not the defaults:")
    for line in differences(to_dict(Config()), to_dict(config)):
        print(f"  {line}")
    with _sole_writer(workdir):
        train(*_open(config, workdir))


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


def final_config(evaluated: str | Path, workdir: str | Path) -> Config:
    """The config of an evaluated run, for `fit_final`: with its settings, but no user and no day held out.

    Args:
        evaluated: workdir of that run.
        workdir: of the final run, whose prepared folder is WORKDIR/prepared.

    Raises:
        FileNotFoundError: `evaluated` is no run.
        ValueError: it is a final run itself.
    """
    config = read_record(Path(evaluated)).config
    check_not_final(config, Path(evaluated))
    return on_everything(config, Path(workdir) / "prepared")


def fit_final(evaluated: str | Path, workdir: str | Path, config: Config | None = None) -> TrainState:
    """Train on all users and up to the last day of the log, or resume it; training/final.py has the rule for
    the steps.

    The log is ingested if `config.data.prepared` does not exist yet. The workdir keeps, besides what `fit`
    keeps, final.json with the name of the evaluated run, and its priors.json.

    Args:
        evaluated: workdir of a run that was evaluated.
        workdir: of the final run.
        config: `final_config` of both, with another log or prepared folder; None: of the same log.

    Returns:
        The state as it was saved.

    Raises:
        FileNotFoundError: no run, log or prepared folder of the run.
        ValueError: the run was not evaluated; a setting is not that of the run; the prepared folder of the
            final run was made in another way; or what `fit` and `prepare` raise.
        TrainingError: as `fit`.
    """
    evaluated, workdir = Path(evaluated), Path(workdir)
    if evaluated.resolve() == workdir.resolve():
        raise ValueError(f"{workdir} is the evaluated run itself: choose another --workdir for the final one")
    usual = final_config(evaluated, workdir)
    config = config or usual
    if changed := forbidden_changes(usual, config):
        raise ValueError(f"a final run has the settings of {evaluated}; undo:\n  " + "\n  ".join(changed))
    with Checkpoints(evaluated, read_only=True) as checkpoints:
        step = checkpoints.step("best")
    if step is None:
        raise FileNotFoundError(
            f"{evaluated}: the run has no checkpoint yet; train further, then evaluate it"
        )
    priors, note = read_priors(evaluated, step)
    if note != priors.formula:
        raise ValueError(f"{evaluated} was not evaluated, and a final run takes its priors: {note}")
    try:
        before, _ = open_data(evaluated)
    except FileNotFoundError as error:
        moved = read_record(evaluated).config.data.prepared
        raise FileNotFoundError(
            f"{moved}: the prepared folder of {evaluated} is not there, and the number of its users is "
            "needed; move it back, or put a link to it there"
        ) from error
    with _sole_writer(workdir):
        timelines = _everything(before, config)
        origin = Origin(
            str(evaluated), step, len(Windows(before, config).users), len(Windows(timelines, config).users)
        )
        config = as_many_epochs(config, origin)
        last = config.training.last_step
        print(
            f"final run in {workdir}: {origin.final_users:,} users up to "
            f"{format_time(timelines.manifest.split_time)}; the best checkpoint of {evaluated} has step "
            f"{step:,} with {origin.users:,} users, so this run has {last:,} steps, as many epochs"
        )
        opened = _open(config, workdir)
        if hosts.is_first():
            write_origin(workdir, origin)
            write_priors(workdir, priors, last, f"fitted for step {step} of {evaluated}")
        return train(*opened)


def _ingest(before: Timelines, config: Config, made: tuple[str, Any] | None) -> None:
    prepared = Path(config.data.prepared)
    if (prepared / MANIFEST).is_file():
        print(f"{prepared} is there and is not ingested again")
    elif made:
        raise ValueError(
            f"{before.path} has item vectors of `items --method {made[0]}`, which ingest does not make. Run "
            "ingest with --data.final --data.evaluation-share 0 --data.validation-share 0 and another "
            "--data.prepared, then items on that folder, then train --final and name in --data.prepared what "
            "items wrote"
        )
    else:
        prepare(config)


def _everything(before: Timelines, config: Config) -> Timelines:
    """The prepared folder of a final run, ingested by the first process if it is not there."""
    prepared = Path(config.data.prepared)
    made = _making(before.path)
    if hosts.is_first():
        _ingest(before, config, made)
    hosts.meet()
    timelines = Timelines.open(prepared, verify=hosts.is_first())
    if not timelines.manifest.config["data"].get("final"):
        raise ValueError(f"{prepared} was not ingested with data.final: name another --data.prepared")
    if _making(prepared) != made:
        raise ValueError(f"{prepared}: its item vectors are not made as those of {before.path}; make them so")
    return timelines


def _making(prepared: Path) -> tuple[str, Any] | None:
    """Method and settings of the item vectors that the verb items made; None: ingest made them."""
    made = made_by(prepared)
    return (made["method"], made["settings"]) if made else None


def _sole_writer(workdir: Path) -> AbstractContextManager[None]:
    """The lock of a workdir, which the first process takes for all."""
    return folder_lock(workdir) if hosts.is_first() else nullcontext()


def _open(config: Config, workdir: Path, objective: Objective | None = None) -> tuple[Run, TrainState]:
    split = partial(split_over_own, config=config.training)
    gain = None if config.data.final or not hosts.is_first() else validation_gain(config, split)
    measured = bool(hosts.of_first(np.array(gain is not None)))
    opened = open_run(config, workdir, objective, gain or (hosts.left_to_first if measured else None))
    if gain:
        gain.timelines.check()  # the run's are the same
    return opened


if __name__ == "__main__":
    sys.exit(main())
