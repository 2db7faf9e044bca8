"""W&B and MLflow: the figures of metrics.jsonl, under the same names, where a team looks at its runs.

`training.wandb` names a project, `training.mlflow` an experiment. Their own settings say where they are:
`wandb login`, WANDB_MODE (offline needs no network), MLFLOW_TRACKING_URI. WORKDIR/trackers.json keeps the
ids, so that a resumed training goes on in the same run. A tracker that fails is left out from then on, with
a warning: it never ends a training.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.files import write_json

FILE = "trackers.json"


class Tracker(Protocol):
    """A run in a tracker, open for figures."""

    id: str

    def log(self, step: int, values: dict[str, float]) -> None:
        """Figures after `step` steps."""

    def close(self, *, failed: bool) -> None:
        """Send what is left; the run has ended."""


class WandB:
    """A run of W&B.

    Args:
        config: of the training; the project is `training.wandb`.
        workdir: of the training; has W&B's files below wandb/.
        run_id: of the run to go on with; None: a new one.
    """

    def __init__(self, config: Config, workdir: Path, run_id: str | None) -> None:
        import wandb

        self._run = wandb.init(
            project=config.training.wandb,
            name=workdir.name,
            config=to_dict(config),
            dir=str(workdir),
            id=run_id,
            resume="allow" if run_id else None,
            settings=wandb.Settings(console="off"),
        )
        self.id = self._run.id

    def log(self, step: int, values: dict[str, float]) -> None:
        """W&B itself leaves out steps that it has."""
        self._run.log(values, step=step)

    def close(self, *, failed: bool) -> None:
        """Wait for the upload."""
        self._run.finish(exit_code=int(failed))


class MLflow:
    """A run of MLflow.

    Args:
        config: of the training; the experiment is `training.mlflow`.
        workdir: of the training.
        run_id: of the run to go on with; None: a new one.
    """

    def __init__(self, config: Config, workdir: Path, run_id: str | None) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric, self._logged = MlflowClient(), Metric, -1
        if run_id:
            self._client.update_run(run_id, status="RUNNING")
            for name in self._client.get_run(run_id).data.metrics:
                steps = [one.step for one in self._client.get_metric_history(run_id, name)]
                self._logged = max(self._logged, *steps)
            self.id = run_id
            return
        name = config.training.mlflow
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self.id = self._client.create_run(experiment, run_name=workdir.name).info.run_id
        values = to_dict(config)
        params = [
            Param(f"{section}.{key}", str(value)[:500])
            for section in ("model", "objective", "training")
            for key, value in values[section].items()
        ]
        for start in range(0, len(params), 100):  # as many as it takes at once
            self._client.log_batch(self.id, params=params[start : start + 100])

    def log(self, step: int, values: dict[str, float]) -> None:
        """MLflow would keep a step twice that is computed again after a kill: it is left out."""
        if step > self._logged:
            now = int(time.time() * 1000)
            self._client.log_batch(self.id, [self._metric(name, v, now, step) for name, v in values.items()])

    def close(self, *, failed: bool) -> None:
        """Mark the end."""
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


KINDS: dict[str, Callable[[Config, Path, str | None], Tracker]] = {"wandb": WandB, "mlflow": MLflow}


class Trackers:
    """The trackers of a training that the config names, as one."""

    def __init__(self, config: Config, workdir: Path) -> None:
        """Open them, or go on with the runs of WORKDIR/trackers.json."""
        self._open: dict[str, Tracker] = {}
        file = workdir / FILE
        names = [name for name in KINDS if getattr(config.training, name)]
        if not names:
            return
        ids: dict[str, Any] = {}
        self._try("its runs", lambda: ids.update(json.loads(file.read_text()) if file.is_file() else {}))
        for name in names:
            tracker = self._try(name, lambda name=name: KINDS[name](config, workdir, ids.get(name)))
            if tracker:
                self._open[name] = tracker
                ids[name] = tracker.id
        self._try("its runs", lambda: write_json(file, ids))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Figures after `step` steps."""
        self._each(lambda tracker: tracker.log(step, values))

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._each(lambda tracker: tracker.close(failed=kind is not None))

    def _each(self, do: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: do(tracker))

    def _try(self, name: str, do: Callable[[], Any]) -> Any:
        """What `do` gives; None, with a warning, if it fails. The libraries raise many kinds of errors, and
        W&B may ask to end the process."""
        try:
            return do()
        except (Exception, SystemExit) as error:
            self._open.pop(name, None)
            cure = f"; pip install 'pinnerformer_jax[{name}]'" if isinstance(error, ImportError) else ""
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"warning: training.{name} is left out, training goes on: {reason}{cure}", file=sys.stderr)
            return None
