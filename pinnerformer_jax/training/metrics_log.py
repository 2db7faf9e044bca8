"""Metrics of a run: how they are computed (`Meter`) and where they are written (`MetricsLog`)."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import jax

from pinnerformer_jax.files import write_text


class Meter:
    """Metrics and pace since the last line of the log.

    A step's metrics are read when the next step has been dispatched, so that the device never waits for
    the host; after `flush` it stands still. Only the time between `start` and `pause` counts: compiling,
    validating and saving do not.
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
        """Stop the clock until the next `start`; call it after `flush`."""
        self._seconds += time.perf_counter() - self._since

    def waited(self, seconds: float) -> None:
        """The host stood still for a batch (the device may have been at work meanwhile)."""
        self._waiting += seconds

    def push(self, metrics: dict[str, jax.Array]) -> None:
        """A step was dispatched and will give these: wait for the step before, and read it."""
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

    def take(self) -> dict[str, float]:
        """What the steps read since the last call gave, by name; empty if there were none.

        Means over the steps; users and tokens (events of histories, padding left out) a second; and the
        share of the time that the host waited for input, a bound on what the input costs.
        """
        if not self._steps:
            return {}
        self.pause()
        values = {name: total / self._steps for name, total in self._sums.items()}
        values["users_per_second"] = self._steps * self._batch_size / self._seconds
        values["tokens_per_second"] = self._sums["tokens"] / self._seconds
        values["input_wait_share"] = self._waiting / self._seconds
        self._clear()
        self.start()
        return values

    def _clear(self) -> None:
        self._steps, self._seconds, self._waiting = 0, 0.0, 0.0
        self._sums: dict[str, float] = {}


class MetricsLog:
    """A progress bar (plain lines where there is no terminal), WORKDIR/metrics.jsonl and TensorBoard
    event files. A resumed run goes on from its checkpoint: what an earlier process wrote past that step
    is taken back, so that no step of the curve is there twice."""

    def __init__(self, workdir: Path, step: int, steps: int, batch_size: int) -> None:
        """Open for writing.

        Args:
            workdir: of the run.
            step: steps done so far.
            steps: of the whole run.
            batch_size: users a step.
        """
        from tensorboardX import SummaryWriter
        from tqdm import tqdm

        file = workdir / "metrics.jsonl"
        _drop_after(file, step)
        self._batch_size = batch_size
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
        """Move the progress bar to this step."""
        self._bar.update(step - self._bar.n)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log what the steps up to `step` gave; nothing where `values` is empty."""
        if not values:
            return
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        if "validation_loss" in values:
            self.say(f"step {step}: validation loss {values['validation_loss']:.4f}")
        elif self._bar.disable:
            self.say(f"step {step}/{self._bar.total}: {self._pace(step, values)}")
        else:
            self._bar.set_postfix_str(self._pace(step, values))

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        self._bar.write(text)

    def flush(self) -> None:
        """Write all lines to disk; done before each checkpoint."""
        self._events.flush()

    def _pace(self, step: int, values: Mapping[str, float]) -> str:
        users = values["users_per_second"]
        left = datetime.timedelta(seconds=round((self._bar.total - step) * self._batch_size / users))
        tokens = values["tokens_per_second"]
        return f"loss {values['loss']:.4f}, {users:,.0f} users/s, {tokens:,.0f} tokens/s, {left} left"

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._events.close()
        self._lines.close()


def _drop_after(file: Path, step: int) -> None:
    """Keep the lines up to `step`; a last line that a kill cut short goes too."""
    if not file.is_file():
        return
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    write_text(
        file, "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step)
    )
