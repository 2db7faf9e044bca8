"""Search of settings with Optuna, on recall@10 of validation users at earlier splits.

The evaluation window is never looked at. A trial is a training below WORKDIR/trials, in a folder named after
its settings, so that a stopped search goes on where it was. A trial whose recall is below the median of the
earlier ones at the same step is pruned.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from flax import nnx

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.evaluation.validation_recall import FEWEST, ValidationRecall
from pinnerformer_jax.files import checked_lines, write_json
from pinnerformer_jax.studies.cells import Stopped
from pinnerformer_jax.training.loop import TrainingError, is_finished, open_run, train
from pinnerformer_jax.training.sizes import sized_by_log

if TYPE_CHECKING:
    import optuna

JOURNAL, REPORT = "trials.log", "tune.json"
BEFORE_PRUNING = 5
"""Trials that are trained to their end before one is pruned."""

Settings = dict[str, Any]
"""Values by name, such as "training.learning_rate"."""


def space(config: Config) -> dict[str, tuple[Any, Any, str]]:
    """What is searched, around the config's own: lowest, highest and kind (float, log, int) of each setting.

    Args:
        config: where the search starts.
    """
    rate = config.training.learning_rate
    return {
        "training.learning_rate": (rate / 5, rate * 5, "log"),
        "training.weight_decay": (1e-3, 0.3, "log"),
        "model.dropout": (0.0, 0.5, "float"),
        "model.layers": (1, max(2, 2 * config.model.layers), "int"),
        "objective.initial_temperature": (max(0.02, 2 * config.objective.min_temperature), 0.5, "log"),
        "objective.positions": (1, max(2, 2 * config.objective.positions), "int"),
    }


def with_settings(config: Config, settings: Settings) -> Config:
    """A config with other values.

    Args:
        config: of the search.
        settings: by name.
    """
    for name, value in settings.items():
        section, _, key = name.partition(".")
        changed = dataclasses.replace(getattr(config, section), **{key: value})
        config = dataclasses.replace(config, **{section: changed})
    return config


def tune(config: Config, workdir: Path, trials: int, minutes: float) -> dict[str, Any]:
    """Search, or go on with the search of a workdir.

    Args:
        config: where the search starts; its own settings are the first trial.
        workdir: of the search.
        trials: that shall be finished in all, those of earlier calls too.
        minutes: after which no further trial starts.

    Returns:
        What is written to WORKDIR/tune.json: trials, the best settings, and what mattered.

    Raises:
        Stopped: by a signal; the trial goes on with the next call.
        ValueError: too few validation users to choose by, or the workdir has the search of another config.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config = sized_by_log(config)
    timelines = Timelines.open(config.data.prepared)
    recall = ValidationRecall(config, timelines, Catalog.of(timelines))
    if recall.users < FEWEST:
        raise ValueError(
            f"tune needs {FEWEST} validation users at earlier splits, and there are {recall.users:,}; a "
            "larger data.validation_share has more"
        )
    study, until = _open(config, workdir), time.monotonic() + minutes * 60
    while _count(study) < trials and time.monotonic() < until:
        trial = study.ask()
        settings = {name: _suggest(trial, name, *bounds) for name, bounds in space(config).items()}
        try:
            best = _train(with_settings(config, settings), _folder(workdir, settings), recall, trial)
        except TrainingError as error:
            print(f"trial {trial.number}: {error}")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        except optuna.TrialPruned:
            print(f"trial {trial.number}: pruned")
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            print(f"trial {trial.number}: recall@10 {best:.4f}, best so far {_best(study, best):.4f}")
            study.tell(trial, best)
        finally:
            jax.clear_caches()  # later trials run other programs
        write_json(workdir / REPORT, report(study))
    return report(study)


def report(study: optuna.Study) -> dict[str, Any]:
    """Finished trials from the best on; the share of the differences in recall that each setting explains
    (fANOVA), from the third finished trial on."""
    import optuna

    done = [trial for trial in study.trials if trial.value is not None and trial.state.name == "COMPLETE"]
    done.sort(key=lambda trial: -trial.value)
    importances = {}
    if len({trial.value for trial in done}) > 2:
        importances = optuna.importance.get_param_importances(study)
    states = [trial.state.name for trial in study.trials]
    return {
        "trials": [{"number": t.number, "recall@10": t.value, "settings": t.params} for t in done],
        "pruned": states.count("PRUNED"),
        "failed": states.count("FAIL"),
        "importances": importances,
        "command": " ".join(
            f"--{name.replace('_', '-')} {value:.4g}"
            for name, value in (done[0].params if done else {}).items()
        ),
    }


def _open(config: Config, workdir: Path) -> optuna.Study:
    """The study of a workdir. A trial that was cut off is asked for again first."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    workdir.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(workdir / JOURNAL)))
    pruner = optuna.pruners.MedianPruner(n_startup_trials=BEFORE_PRUNING)
    study = optuna.create_study(
        study_name="tune", storage=storage, direction="maximize", load_if_exists=True, pruner=pruner
    )
    # Another seed each time, or a resumed search would draw the same settings again.
    study.sampler = optuna.samplers.TPESampler(seed=config.training.seed + len(study.trials))
    meant = _meant(config)
    if study.user_attrs.setdefault("config", meant) != meant:
        raise ValueError(f"{workdir} has the search of another config: name another --workdir")
    study.set_user_attr("config", meant)
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
    if not study.trials:
        bounds = space(config)
        own = {
            name: getattr(getattr(config, name.partition(".")[0]), name.partition(".")[2]) for name in bounds
        }
        study.enqueue_trial({name: min(max(own[name], low), high) for name, (low, high, _) in bounds.items()})
    return study


def _meant(config: Config) -> str:
    return hashlib.sha256(repr(config).encode()).hexdigest()[:16]


def _suggest(trial: optuna.Trial, name: str, low: Any, high: Any, kind: str) -> Any:
    if kind == "int":
        return trial.suggest_int(name, low, high)
    return trial.suggest_float(name, low, high, log=kind == "log")


def _folder(workdir: Path, settings: Settings) -> Path:
    text = json.dumps(settings, sort_keys=True)
    return workdir / "trials" / hashlib.sha256(text.encode()).hexdigest()[:12]


def _count(study: optuna.Study) -> int:
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.trials)


def _best(study: optuna.Study, value: float) -> float:
    return max(
        [value, *(t.value for t in study.trials if t.value is not None and t.state.name == "COMPLETE")]
    )


def _train(config: Config, folder: Path, recall: ValidationRecall, trial: optuna.Trial) -> float:
    """Train to the end; the best recall@10 of its checkpoints.

    Raises:
        Stopped: by a signal.
        TrialPruned: its curve is below the others'.
    """
    import optuna

    measured = len(_curve(folder))

    def watched(graphdef: nnx.GraphDef, params: Any) -> tuple[float, float]:
        nonlocal measured
        found = recall(graphdef, params)
        trial.report(found[0], measured)
        measured += 1
        if trial.should_prune():
            raise optuna.TrialPruned
        return found

    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "log.txt").open("a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
    ):
        train(*open_run(config, folder, recall=watched))
    if not is_finished(folder):
        raise Stopped
    return max(_curve(folder))


def _curve(folder: Path) -> list[float]:
    lines = [values for _, values in checked_lines(folder / "metrics.jsonl") if values]
    return [values["validation_recall"] for values in lines if "validation_recall" in values]
