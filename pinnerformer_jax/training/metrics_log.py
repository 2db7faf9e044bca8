"""Metrics of a training run: their means and rates (`Meter`), and the files they go to (`MetricsLog`)."""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import jax

from pinnerformer_jax.files import checked_lines, with_checksum, write_text
from pinnerformer_jax.training.trackers import Trackers


@dataclass(frozen=True)
class StepMetrics:
    """Of the steps since the last line of the log: means over them, then rates."""

    gradient_norm: float
    """Global norm, before clipping."""
    learning_rate: float
    loss: float
    negatives: float
    """Items in the pool."""
    pairs: float
    """Of a user and a positive, in a global batch."""
    temperature: float
    tokens: float
    """Events of histories in a global batch, padding left out."""
    users: float
    """In a global batch, with a pair."""
    users_per_second: float
    """Of all in the batch."""
    tokens_per_second: float
    input_wait_share: float
    """Share of the time that the host waited for a batch: a bound on what the input costs."""

    def to_json(self) -> dict[str, float]:
        """As in metrics.jsonl."""
        return dataclasses.asdict(self)


class Meter:
    """Metrics and pace since the last line of the log.

    A step's metrics are read after the next step was dispatched, so that the device never waits for the
    host. Only the time between `start` and `pause` counts; compiling, validating and saving are not in it.
    """

    def __init__(self, batch_size: int, step: int) -> None:
        """Begin.

        Args:
            batch_size: users a step.
            step: steps done so far.
        """
        self.step = step
        """Steps whose metrics have been read."""
        self.failed_step = -1
        """The first step, from 0, whose loss or gradient was not finite; -1: none."""
        self.pairs = 0
        """Pairs of a user and a positive that those steps were trained on."""
        self._batch_size = batch_size
        self._unread: dict[str, jax.Array] | None = None
        self._since = 0.0
        self._clear()

    def start(self) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock until the next `start`; call `flush` first."""
        self._seconds += time.perf_counter() - self._since

    def waited(self, seconds: float) -> None:
        """Add time in which the host waited for a batch; the device may have been busy meanwhile."""
        self._waiting += seconds

    def push(self, metrics: dict[str, jax.Array]) -> None:
        """Take the metrics of a step that was dispatched; wait for the step before it and read that."""
        self.flush()
        self._unread = metrics

    def flush(self) -> None:
        """Wait for the step dispatched last, and read it."""
        if self._unread is None:
            return
        values = jax.device_get(self._unread)
        self._unread = None
        self.failed_step = int(values.pop("failed_step"))
        self.pairs += int(values["pairs"])
        self.step += 1
        self._steps += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def take(self) -> StepMetrics | None:
        """Metrics of the steps that were read since the last call; None if there were none."""
        if not self._steps:
            return None
        self.pause()
        metrics = StepMetrics(
            **{name: total / self._steps for name, total in self._sums.items()},
            users_per_second=self._steps * self._batch_size / self._seconds,
            tokens_per_second=self._sums["tokens"] / self._seconds,
            input_wait_share=self._waiting / self._seconds,
        )
        self._clear()
        self.start()
        return metrics

    def _clear(self) -> None:
        self._steps, self._seconds, self._waiting = 0, 0.0, 0.0
        self._sums: dict[str, float] = {}


class MetricsLog:
    """A progress bar (plain lines where there is no terminal), WORKDIR/metrics.jsonl, TensorBoard event files
    and trackers. A resumed run starts from its checkpoint. Lines that an earlier process wrote after that
    step are removed, so that no step is logged twice."""

    def __init__(
        self, workdir: Path, step: int, steps: int, batch_size: int, trackers: Trackers | None = None
    ) -> None:
        """Open for writing.

        Args:
            workdir: of the run.
            step: steps done so far.
            steps: of the whole run.
            batch_size: users a step.
            trackers: that get the same figures; closed by whoever opened them.
        """
        from tensorboardX import SummaryWriter
        from tqdm import tqdm

        file = workdir / "metrics.jsonl"
        _drop_after(file, step)
        self._batch_size, self._steps, self._trackers = batch_size, steps, trackers
        self._lines = file.open("a", encoding="utf-8", buffering=1)
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)
        self._bar = tqdm(
            total=steps,
            initial=step,
            disable=None,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps{postfix}",
        )

    def advance(self, step: int) -> None:
        """Move the progress bar to a step."""
        self._bar.update(step - self._bar.n)

    def write(self, step: int, metrics: StepMetrics | None) -> None:
        """Log the metrics of the steps up to `step`; None: there is nothing to log."""
        if metrics is None:
            return
        self._record(step, metrics.to_json())
        if self._bar.disable:
            self.say(f"step {step}/{self._bar.total}: {self._pace(step, metrics)}")
        else:
            self._bar.set_postfix_str(self._pace(step, metrics))

    def write_validation(self, step: int, loss: float | None, gain: float | None) -> None:
        """Log the validation loss and the discounted gain after `step` steps; None: not measured."""
        found = {"validation_loss": loss, "validation_gain": gain}
        self._record(step, {name: value for name, value in found.items() if value is not None})
        shown = [] if loss is None else [f"validation loss {loss:.4f}"]
        shown += [] if gain is None else [f"discounted gain {gain:.4f}"]
        self.say(f"step {step}: {', '.join(shown)}")

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        self._bar.write(text)

    def flush(self) -> None:
        """Write the buffered events to disk, with each checkpoint."""
        self._events.flush()

    def _record(self, step: int, values: dict[str, float]) -> None:
        self._lines.write(json.dumps(with_checksum({"step": step, **values})) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        if self._trackers:
            self._trackers.log(step, values)

    def _pace(self, step: int, metrics: StepMetrics) -> str:
        users, tokens = metrics.users_per_second, metrics.tokens_per_second
        left = datetime.timedelta(seconds=round((self._steps - step) * self._batch_size / users))
        return f"loss {metrics.loss:.4f}, {users:,.0f} users/s, {tokens:,.0f} tokens/s, {left} left"

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._events.close()
        self._lines.close()


class NoLog:
    """What processes other than the first have instead of a `MetricsLog`: it does nothing."""

    def advance(self, step: int) -> None:
        """Nothing to move."""

    def write(self, step: int, metrics: StepMetrics | None) -> None:
        """Nothing to log."""

    def write_validation(self, step: int, loss: float | None, gain: float | None) -> None:
        """Nothing to log."""

    def say(self, text: str) -> None:
        """Nothing to print."""

    def flush(self) -> None:
        """Nothing to write."""


def _drop_after(file: Path, step: int) -> None:
    """Keep the lines up to `step`, without a last line that a kill cut short."""
    kept = []
    for number, (line, values) in enumerate(checked_lines(file), start=1):
        if values is None or "step" not in values:
            raise ValueError(f"{file} line {number} is damaged: delete the line")
        kept += [line] if values["step"] <= step else []
    if file.is_file():
        write_text(file, "".join(kept))
