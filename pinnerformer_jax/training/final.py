"""The final training: on all users and up to the last day, with what an evaluated run found.

An evaluated run keeps users and the last days from training, so that its figures are honest. What it found
are the settings, and the step of its best checkpoint. Nothing can be measured on a final run: it has seen
everybody.

The final run trains for as many epochs as the evaluated run had trained at its best checkpoint, so its steps
are scaled by the number of training users. An epoch has one window of each user, and a model overfits after
so many windows of a user, not after so many steps. The warm-up and the cosine are scaled alike, so the
learning rate at the end is that of the best checkpoint.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

from pinnerformer_jax.config import Config
from pinnerformer_jax.files import read_checked_json, write_checked_json

FILE = "final.json"


class Origin(NamedTuple):
    """The evaluated run from which a final run has its settings; WORKDIR/final.json."""

    evaluated: str  # its workdir
    step: int  # of its best checkpoint
    users: int  # whom it trained on
    final_users: int  # whom the final run trains on


def on_everything(config: Config, prepared: str | Path) -> Config:
    """The config of a run, to ingest and train on all users and up to the last day.

    Args:
        config: of the evaluated run.
        prepared: folder for the data of the final run.
    """
    data = dataclasses.replace(
        config.data, final=True, evaluation_share=0.0, validation_share=0.0, prepared=str(prepared)
    )
    return dataclasses.replace(config, data=data)


def as_many_epochs(config: Config, origin: Origin) -> Config:
    """The config with the schedule of the evaluated run and the end of its best checkpoint, both scaled by
    the number of users and rounded up; one step, of the warm-up, where that was the start.

    Args:
        config: with the steps of the evaluated run.
        origin: of the final run.
    """

    def scaled(steps: int) -> int:
        return -(-steps * origin.final_users // origin.users)

    training = dataclasses.replace(
        config.training, steps=scaled(config.training.steps), stop_after=max(scaled(origin.step), 1)
    )
    return dataclasses.replace(config, training=training)


def write_origin(workdir: Path, origin: Origin) -> None:
    """Write WORKDIR/final.json."""
    write_checked_json(workdir / FILE, origin._asdict())


def read_origin(workdir: Path) -> Origin:
    """What `write_origin` wrote.

    Raises:
        FileNotFoundError: the run is no final one, or did not begin to train.
        ValueError: the file is damaged.
    """
    file = workdir / FILE
    values = read_checked_json(file, "what train --final writes", "run train --final again")
    try:
        return Origin(**values)
    except TypeError as error:
        raise ValueError(f"{file}: not what train --final writes ({error}); run it again") from error


def check_not_final(config: Config, workdir: Path) -> None:
    """Check that a run can be evaluated.

    Raises:
        ValueError: it is a final one.
    """
    if config.data.final:
        try:
            cure = f"evaluate {read_origin(workdir).evaluated}, the run that its settings come from"
        except FileNotFoundError:
            cure = "evaluate the run that its settings come from"
        raise ValueError(
            f"{workdir} was trained on all users and up to the last day (data.final), so nothing is left to "
            f"evaluate it on; {cure}"
        )
