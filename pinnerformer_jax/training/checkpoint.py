"""Checkpoints of a run: the last and the best. They are written atomically, while training continues.

WORKDIR/
  config.json              the record of the run (run_record.py)
  checkpoints/STEP/        params, and rest (optimiser, sketch, step) which serving never reads; metrics
                           has the checksums of both, and its own
"""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Sharding, SingleDeviceSharding
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.files import with_checksum
from pinnerformer_jax.model.pinnerformer import PinnerFormer
from pinnerformer_jax.training.checksums import check_metrics, checksum
from pinnerformer_jax.training.run_record import data_digest, read_record, read_record_file
from pinnerformer_jax.training.state import TrainState

ChosenBy = Literal["gain", "recall", "loss"]
"""What makes a checkpoint of a run the best."""
_ORDERS = 1e6
"""Where the order of checkpoints begins that have a gain; older versions began at 0."""


def check_name(workdir: Path, *, read_only: bool = False) -> None:
    """Check that checkpoints can be written, or read, below a folder of this name.

    Raises:
        ValueError: TensorStore takes a sign of the path for part of a pattern. The message names the sign.
    """
    path = str(workdir.absolute())
    found = [sign for sign in ("\\" if read_only else "*?[\\") if sign in path]
    if found:
        raise ValueError(
            f"{path}: no checkpoint can be kept below a folder with {' '.join(found)} in its name; "
            "rename the folder, or choose another --workdir"
        )


class Checkpoints:
    """The checkpoints of a run: the last and the best.

    A checkpoint is better than the best so far if the discounted gain of validation users is higher by half
    of its standard error, or not lower by as much and the validation loss is lower. (Half, as both are of the
    same users.) In a run that does not measure the gain, the loss alone decides.
    """

    def __init__(self, workdir: Path, *, read_only: bool = False) -> None:
        """Open.

        Args:
            workdir: of the run.
            read_only: leave the folder as it is: another process may be writing to it.

        Raises:
            ValueError: the metrics of a checkpoint, which say which is the best, are damaged; the message
                names the file.
        """
        check_name(workdir, read_only=read_only)
        check_metrics(workdir / "checkpoints")
        self._unread: tuple[int, dict[str, Any]] | None = None  # a step that was saved, shapes of its items
        self._measured: dict[int, dict[str, float]] = {}  # by step; Orbax writes them later
        best = BestN(get_metric_fn=_order, reverse=False, n=1)
        self._manager = ocp.CheckpointManager(
            (workdir / "checkpoints").absolute(),
            options=ocp.CheckpointManagerOptions(
                best_fn=_order,
                best_mode="max",
                preservation_policy=AnyPreservationPolicy([LatestN(1), best]),
                create=not read_only,
                cleanup_tmp_directories=not read_only,
            ),
            item_names=("params", "rest"),
        )

    def step(self, which: Literal["last", "best"] = "last") -> int | None:
        """Steps done at a checkpoint; None: there is none."""
        return self._manager.best_step() if which == "best" else self._manager.latest_step()

    def chosen_by(self) -> ChosenBy:
        """What the best checkpoint is the best by."""
        metrics = self._metrics_of(self.step("best"))
        if "validation_gain" in metrics:
            return "gain"
        return "recall" if "validation_recall" in metrics else "loss"  # it chose in older versions

    def _metrics_of(self, step: int | None) -> dict[str, float]:
        if step is None:
            return {}
        return self._measured.get(step) or self._manager.metrics(step) or {}

    def save(
        self, state: TrainState, validation_loss: float = math.inf, gain: tuple[float, float] | None = None
    ) -> None:
        """Copy the state to the host, then write it in the background. A step that is already saved is
        skipped. What was saved before is read back first.

        Args:
            state: of the run.
            validation_loss: infinity: not known; such a checkpoint is the best only while all are.
            gain: discounted, of validation users, and its standard error; None: not measured.

        Raises:
            OSError: the checkpoint before could not be written, such as on a full disk.
            ValueError: it cannot be read.
        """
        self._read_back()
        step = int(jax.device_get(state.step))
        if step == self.step():
            return
        items = {name: ocp.args.StandardSave(tree) for name, tree in _items(state).items()}
        metrics: dict[str, Any] = {"validation_loss": validation_loss}
        if gain is not None:
            metrics |= {"validation_gain": gain[0], "order": self._order_of(validation_loss, *gain)}
        # The training loop forbids implicit transfers; Orbax may need some.
        with jax.transfer_guard_device_to_host("allow"):
            metrics |= {f"{name}_sha256": checksum(tree) for name, tree in _items(state).items()}
            self._measured[step] = metrics = with_checksum(metrics)
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), _items(state))
        self._unread = step, shapes

    def _read_back(self) -> None:
        """Wait for the last `save`, and read what it wrote."""
        if self._unread is None:
            return
        (step, shapes), self._unread = self._unread, None
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax and TensorStore raise many kinds
            kept = [other for other in self._manager.all_steps() if other < step]
            raise OSError(
                f"{self._manager.directory}: the checkpoint of step {step} could not be written "
                f"({' '.join(str(error).split())[:400]}); "
                + (f"that of step {kept[-1]} is kept, and the same command goes on from it" if kept else "")
            ) from error
        with jax.transfer_guard("allow"):
            self._restore(step, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes))

    def _order_of(self, loss: float, gain: float, error: float) -> float:
        """A number above that of the best checkpoint if this one is better, else below it."""
        best = self._metrics_of(self.step("best"))
        if "validation_gain" not in best:
            return _ORDERS  # above those without a gain
        higher, margin = gain - best["validation_gain"], error / 2
        better = higher > margin or (higher > -margin and loss < best["validation_loss"])
        return best["order"] + (1 if better else -1)

    def restore(self, abstract: TrainState, sharding: Sharding) -> TrainState:
        """The last checkpoint.

        Args:
            abstract: shapes of the state, from `jax.eval_shape`.
            sharding: where its arrays go.

        Raises:
            ValueError: the checkpoint cannot be read.
        """
        items = self._restore(self.step("last"), _placed(_items(abstract), sharding))
        return TrainState(params=items["params"], **items["rest"])

    def restore_params(self, abstract: Any, sharding: Sharding, step: int) -> Any:
        """The parameters of the checkpoint after so many steps, and nothing else of it.

        Raises:
            ValueError: the checkpoint cannot be read.
        """
        return self._restore(step, _placed({"params": abstract}, sharding))["params"]

    def _restore(self, step: int | None, items: dict[str, Any]) -> dict[str, Any]:
        wanted = {name: ocp.args.StandardRestore(tree) for name, tree in items.items()}
        try:
            found = dict(self._manager.restore(step, args=ocp.args.Composite(**wanted)).items())
            with jax.transfer_guard_device_to_host("allow"):
                for name, tree in found.items():
                    recorded = self._metrics_of(step).get(f"{name}_sha256")  # older versions recorded none
                    if recorded and recorded != checksum(tree):
                        raise ValueError(f"its {name} were altered")
            return found
        except Exception as error:  # Orbax and TensorStore raise many kinds
            folder = Path(self._manager.directory) / str(step)
            others = [other for other in self._manager.all_steps() if other != step]
            cure = f"delete the folder to go back to step {others[-1]}" if others else "train anew"
            reason = " ".join(str(error).split())[:400]  # Orbax lists every parameter
            what = "this checkpoint is damaged, or another version of the model wrote it"
            raise ValueError(f"{folder}: {what} ({reason}); {cure}") from error

    def close(self) -> None:
        """Wait until all checkpoints are on disk, and read the last one back.

        Raises:
            OSError: it could not be written.
            ValueError: it cannot be read.
        """
        try:
            self._read_back()
        finally:
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._unread = None  # the error that is on its way says more
        self.close()


def open_data(workdir: Path, prepared: str | Path | None = None) -> tuple[Timelines, Catalog]:
    """The prepared data that a run was trained on.

    Args:
        workdir: of the run.
        prepared: where the folder is now; None: where the run found it.

    Raises:
        FileNotFoundError: there is no run, or its prepared folder does not exist.
        ValueError: they are not, or no longer, those of the training, or a file of them is damaged.
    """
    run = read_record(workdir)
    folder = Path(prepared or run.config.data.prepared)
    if not folder.is_dir():
        trained_in = read_record_file(workdir).get("working_folder", "the working folder of the training")
        meant = "" if folder.is_absolute() or prepared else f" (a path relative to {trained_in})"
        raise FileNotFoundError(
            f"{folder}{meant}: the prepared folder of {workdir} is not there; working folder {Path.cwd()}. "
            "Name it with --data.prepared DIR"
        )
    timelines = Timelines.open(folder)
    if data_digest(timelines.manifest) != run.data:
        raise ValueError(
            f"{folder}: not the data that {workdir} was trained on (ingest ran again with "
            "another result); name the folder of the training with --data.prepared DIR, or train anew"
        )
    return timelines, Catalog.of(timelines)


class Checkpoint(NamedTuple):
    """A trained model, and when it was saved."""

    config: Config
    graphdef: nnx.GraphDef
    params: Any  # a nested dict of float32 arrays, on the first device
    step: int  # training steps done
    chosen_by: ChosenBy  # what makes a checkpoint of this run the best


def load_for_inference(
    workdir: str | Path, which: Literal["last", "best"] = "best"
) -> tuple[Config, nnx.GraphDef, Any]:
    """A trained model: its parameters alone, without optimiser state and sketch.

    Args:
        workdir: of the run.
        which: the last checkpoint or the best, see `Checkpoints`.

    Returns:
        Config, structure and parameters (a nested dict of float32 arrays, on the first device):
        `nnx.merge(structure, parameters)` is the `PinnerFormer`.

    Raises:
        FileNotFoundError: no run or no checkpoint is there.
        ValueError: the checkpoint cannot be read.
    """
    return read_checkpoint(workdir, which)[:3]


def read_checkpoint(workdir: str | Path, which: Literal["last", "best"] = "best") -> Checkpoint:
    """`load_for_inference`, with the step of the checkpoint."""
    workdir = Path(workdir)
    check_name(workdir, read_only=True)
    run = read_record(workdir)
    graphdef, abstract = jax.eval_shape(lambda: PinnerFormer(run.config, run.sizes).split())
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step = checkpoints.step(which)
        if step is None:
            raise FileNotFoundError(f"{workdir}: the run has no checkpoint yet; train further")
        device = SingleDeviceSharding(jax.devices()[0])
        params = checkpoints.restore_params(abstract, device, step)
        return Checkpoint(run.config, graphdef, params, step, checkpoints.chosen_by())


def _items(state: TrainState) -> dict[str, Any]:
    rest = state._asdict()
    return {"params": rest.pop("params"), "rest": rest}


def _placed(items: dict[str, Any], sharding: Sharding) -> dict[str, Any]:
    """Shapes of arrays that go there."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), items)


def _order(metrics: dict[str, float]) -> float:
    return metrics.get("order", -metrics["validation_loss"])
