"""The training loop, in the order it happens: data, state, compile, steps.

While the device computes a step, the host fetches the next batch and then reads the metrics of the step
before. So one step is always queued, and never more than one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pinnerformer_jax.config import Config, TrainingConfig
from pinnerformer_jax.data.contracts import Batch, longest_in_parts
from pinnerformer_jax.data.timelines import VALIDATION, Timelines
from pinnerformer_jax.data.windows import Windows, training_batches
from pinnerformer_jax.objective.targets import Objective
from pinnerformer_jax.runtime import keep_heap
from pinnerformer_jax.training import hosts
from pinnerformer_jax.training.checkpoint import Checkpoints, check_name
from pinnerformer_jax.training.inputs import open_training_data
from pinnerformer_jax.training.memory import check_memory, refuse
from pinnerformer_jax.training.metrics_log import Meter, MetricsLog, NoLog
from pinnerformer_jax.training.run_record import RunRecord, claim, data_digest, read_record
from pinnerformer_jax.training.sharding import make_mesh, replicate, shard_batch
from pinnerformer_jax.training.state import Tables, TrainState, create
from pinnerformer_jax.training.step import (
    Metrics,
    compiler_options,
    make_train_step,
    make_validation_step,
)
from pinnerformer_jax.training.trackers import Trackers

Step = Callable[[TrainState, Batch, Tables], tuple[TrainState, Metrics]]
Gain = Callable[[nnx.GraphDef, Any], tuple[float, float]]
"""Discounted gain of validation users and its standard error, of a model by its structure and parameters."""
Validate = Callable[[TrainState], float | None]

_SAMPLED_BATCHES = 64
"""Batches whose lengths decide how long the parts of a batch are computed."""


class TrainingError(RuntimeError):
    """Training cannot go on."""


class NonFiniteError(TrainingError):
    """The loss or a gradient was NaN or infinite."""


class NoPairsError(TrainingError):
    """No user had a pair to train on."""


@dataclass(frozen=True)
class Run:
    """What stays the same while a run trains."""

    config: Config
    workdir: Path
    mesh: Mesh
    timelines: Timelines
    corpus: int
    tables: Tables
    graphdef: nnx.GraphDef
    objective: Objective | None = None  # None: the one that the config names
    gain: Gain | None = None  # chooses the best checkpoint; None: the validation loss does


def open_run(
    config: Config, workdir: Path, objective: Objective | None = None, gain: Gain | None = None
) -> tuple[Run, TrainState]:
    """Check that data, config and workdir fit each other; then make the state or restore the last one.

    Args:
        config: the experiment.
        workdir: folder of the run.
        objective: chooses the pairs instead of the function that `config.objective.name` names, see
            `objective.targets.Objective`.
        gain: measured at each checkpoint to choose the best; None: the validation loss chooses.

    Raises:
        FileNotFoundError: the data were never prepared.
        ValueError: something does not fit, or the checkpoint is damaged. The message says what to change.
    """
    check_name(workdir)
    mesh = make_mesh()
    if config.training.batch_size % mesh.size:
        raise ValueError(
            f"training.batch_size = {config.training.batch_size}: must be a multiple of the "
            f"{mesh.size} devices"
        )
    timelines, catalog, sizes, tables = open_training_data(config, mesh)
    windows = Windows(timelines, config)
    _ = windows.users  # raises if there is no user to train on
    graphdef, abstract = jax.eval_shape(lambda: create(config, sizes))
    check_memory(config, abstract, windows, mesh)
    timelines.check()
    claim(workdir, RunRecord(config, sizes, data_digest(timelines.manifest)))

    replicated = NamedSharding(mesh, PartitionSpec())
    with Checkpoints(workdir) as checkpoints:
        if checkpoints.step() is None:
            made = jax.jit(lambda seed: create(config, sizes, seed)[1], out_shardings=replicated)
            state = made(tables.seed)
        else:
            state = checkpoints.restore(abstract, replicated)
    return Run(config, workdir, mesh, timelines, catalog.trained, tables, graphdef, objective, gain), state


def train(run: Run, state: TrainState) -> TrainState:
    """Train to the last step; or until the model no longer gets better, see `training.patience`; or until
    SIGTERM or SIGINT asks to stop. The state is saved.

    Args:
        run: from `open_run`.
        state: likewise; its memory is reused.

    Returns:
        The state as it was saved.

    Raises:
        NonFiniteError: names the step; nothing was saved after it.
        NoPairsError: there was no pair up to the first checkpoint.
    """
    config = run.config.training
    step = int(state.step)
    resumed = step > 0
    if step == config.last_step:
        print(f"all {config.last_step} steps are done")
        return state
    if resumed:
        print(f"resuming after step {step}")
    with (
        hosts.Stop() as stop,
        Checkpoints(run.workdir) as checkpoints,
        _log(run, step) as log,
        jax.transfer_guard("disallow"),
    ):
        if _no_longer_better(config, checkpoints):
            log.say(f"nothing is left to do: {_ended(run, checkpoints)}")
            return state
        rows = hosts.rows_of(run.mesh, config.batch_size)
        batches = training_batches(
            run.timelines, run.config, start_step=step, steps=config.last_step, rows=rows
        )
        host_batch, lengths = next(batches)
        batch = shard_batch(run.mesh, host_batch)
        program, validate = _compile(run, state, batch)
        hosts.meet()
        if run.gain and checkpoints.step() is None:  # what training must beat
            gain = _gain(run, state)
            log.write_validation(step, None, gain and gain[0])
            checkpoints.save(state, gain=gain)
        meter = Meter(config.batch_size, step)

        def check() -> None:
            """Raise if a step that was read is not finite."""
            log.advance(meter.step)
            if meter.failed_step >= 0:
                raise _not_finite(meter.failed_step + 1, "the loss or its gradient", checkpoints)

        def settle() -> None:
            """Wait for all dispatched steps, check them and log them."""
            meter.flush()
            check()
            log.write(step, meter.take())

        meter.start()
        stopped = False
        while step < config.last_step and not stopped:
            state, metrics = program(lengths)(state, batch, run.tables)
            step += 1
            if step < config.last_step:
                asked = time.perf_counter()
                host_batch, lengths = next(batches)
                batch = shard_batch(run.mesh, host_batch)
                meter.waited(time.perf_counter() - asked)
            meter.push(metrics)
            check()
            if meter.step % config.log_every == 0:
                log.write(meter.step, meter.take())
            if step % config.checkpoint_every == 0 or step == config.last_step:
                settle()
                if not (resumed or meter.pairs):
                    raise NoPairsError(
                        f"in {step} steps no user had a positive within objective.horizon_days = "
                        f"{run.config.objective.horizon_days:g} of a position, and up to the split: nothing "
                        "was learned; check data.positives, objective.horizon_days and target_actions"
                    )
                meter.pause()
                loss = validate(state)
                if loss is None:
                    checkpoints.save(state)
                elif math.isfinite(loss):
                    gain = _gain(run, state)
                    log.write_validation(step, loss, gain and gain[0])
                    checkpoints.save(state, loss, gain)
                else:
                    raise _not_finite(step, "the validation loss", checkpoints)
                log.flush()
                if step < config.last_step and _no_longer_better(config, checkpoints):
                    log.say(f"training ends after step {step}: {_ended(run, checkpoints)}")
                    return state
                meter.start()
            stopped = stop.after(step)  # last, so that a signal during this step ends it
        if step < config.last_step:
            settle()
            checkpoints.save(state)
            log.say(f"stopped after step {step}, which is saved; resume with the same command")
    return state


def _gain(run: Run, state: TrainState) -> tuple[float, float] | None:
    if run.gain is None:
        return None
    with jax.transfer_guard("allow"):
        found = run.gain(run.graphdef, jax.device_get(state.params))
        if not hosts.several():
            return found
        # Another machine may round otherwise, and all must choose the same checkpoint.
        gain, error = np.asarray(hosts.of_first(np.array(found, np.float32))).tolist()
        return gain, error


def is_finished(workdir: Path) -> bool:
    """Whether the training of a run has ended: after all its steps, or because it got no better."""
    config = read_record(workdir).config.training
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.step() == config.last_step or _no_longer_better(config, checkpoints)


def _no_longer_better(config: TrainingConfig, checkpoints: Checkpoints) -> bool:
    """Whether the best checkpoint is followed by `training.patience` others."""
    best, last = checkpoints.step("best"), checkpoints.step("last")
    if not config.patience or best is None or last is None:
        return False
    return last - best >= config.patience * config.checkpoint_every


def _ended(run: Run, checkpoints: Checkpoints) -> str:
    measure = "the loss of validation users has not fallen"
    if run.gain:
        measure = "the discounted gain of validation users has not risen"
    return (
        f"{measure} for {run.config.training.patience} checkpoints, since step {checkpoints.step('best')}, "
        "which is kept; --training.patience 0 trains to the last step"
    )


def _not_finite(step: int, what: str, checkpoints: Checkpoints) -> NonFiniteError:
    kept = checkpoints.step()
    return NonFiniteError(
        f"step {step}: {what} is not finite. "
        + ("There is no checkpoint yet. " if kept is None else f"The checkpoint of step {kept} is kept. ")
        + "The same command would come to the same end: lower training.learning_rate, or look at the data."
    )


def _compile(run: Run, state: TrainState, batch: Batch) -> tuple[Callable[[np.ndarray], Step], Validate]:
    """Compile before the first step, and print what the program costs. There are two programs: one whose
    parts are as long as most batches of these data need, and the full one for batches that are longer."""
    print(f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,} parameters")
    parts = _part_lengths(run)
    short = _compiled_step(run, state, batch, parts)
    full = _compiled_step(run, state, batch, (), must_fit=False) if parts else short

    def program(lengths: np.ndarray) -> Step:
        fits = parts and (longest_in_parts(lengths, len(parts), run.mesh.size) <= np.array(parts)).all()
        return short if fits else full

    return program, _validation(run, state, batch)


def _part_lengths(run: Run) -> tuple[int, ...]:
    """Lengths for the parts of a batch, by a sample of the run's batches; () if less than a fifth of the
    positions would be saved, which is not worth the second program's compile time."""
    config = run.config
    every = max(config.training.last_step // _SAMPLED_BATCHES, 1)
    windows = Windows(run.timelines, config)
    count = min(config.training.length_parts, config.training.batch_size // run.mesh.size)
    parts = windows.part_lengths(count, run.mesh.size, range(0, config.training.last_step, every))
    return parts if sum(parts) <= 0.8 * config.model.max_length * count else ()


def _compiled_step(
    run: Run, state: TrainState, batch: Batch, parts: tuple[int, ...], *, must_fit: bool = True
) -> Step:
    started = time.perf_counter()
    step = make_train_step(run.config, run.graphdef, run.mesh, run.corpus, parts, run.objective)
    compiled = step.lower(state, batch, run.tables).compile(compiler_options(run.config.training))
    memory: Any = compiled.memory_analysis()
    if must_fit:
        refuse(memory.argument_size_in_bytes + memory.temp_size_in_bytes, run.mesh, "by its program")
    flops = (compiled.cost_analysis() or {}).get("flops", 0.0)
    if jax.default_backend() == "cpu":
        keep_heap(memory.temp_size_in_bytes * run.mesh.size)
    lengths = f" for parts of lengths {', '.join(map(str, parts))}" if parts else ""
    print(
        f"train step{lengths} compiled in {time.perf_counter() - started:.1f} s. "
        f"On each of {run.mesh.size} devices: {flops / 1e9:,.3g} GFLOP a step, "
        f"{memory.argument_size_in_bytes / 2**20:,.0f} MiB of state, tables and batch, "
        f"{memory.temp_size_in_bytes / 2**20:,.0f} MiB of temporaries"
    )
    return compiled


def _validation(run: Run, state: TrainState, batch: Batch) -> Validate:
    """The loss on users that are never trained on. Batches and draws are the same each time, so that only the
    parameters differ, and, early in training, the frequencies in the sketch."""
    config = run.config
    count = config.training.validation_batches
    if not any(((shard.role == VALIDATION) & (shard.cut >= 2)).any() for shard in run.timelines.shards):
        print("no validation users: the best checkpoint is the last")
        return lambda state: None
    rows = hosts.rows_of(run.mesh, config.training.batch_size)
    held_out = training_batches(run.timelines, config, role=VALIDATION, start_step=0, steps=count, rows=rows)
    batches = [jax.tree.map(np.asarray, batch) for batch, _ in held_out]
    started = time.perf_counter()
    loss_of = make_validation_step(config, run.graphdef, run.mesh, run.corpus, run.objective)
    loss_of = loss_of.lower(state, batch, run.tables).compile()
    print(f"validation step compiled in {time.perf_counter() - started:.1f} s")

    def validate(state: TrainState) -> float:
        results = []
        for k, batch in enumerate(batches):
            fixed = state._replace(step=replicate(run.mesh, np.int32(k)))
            results.append(loss_of(fixed, shard_batch(run.mesh, batch), run.tables))
        results = jax.device_get(results)
        losses, users = (np.array([r[name] for r in results], np.float64) for name in ("loss", "users"))
        return float(losses @ users / users.sum()) if users.sum() else 0.0

    return validate


@contextlib.contextmanager
def _log(run: Run, step: int) -> Generator[MetricsLog | NoLog, None, None]:
    """Where the figures go; from processes other than the first nowhere."""
    if not hosts.is_first():
        yield NoLog()
        return
    config = run.config.training
    with (
        Trackers(run.config, run.workdir) as trackers,
        MetricsLog(run.workdir, step, config.last_step, config.batch_size, trackers) as log,
    ):
        yield log
