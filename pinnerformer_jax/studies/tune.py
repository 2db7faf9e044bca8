"""Search of settings with Optuna, on the discounted gain of what is served to validation users
at earlier splits.

The evaluation window is never looked at. A trial is a training below WORKDIR/trials, in a folder named after
its settings, so that a stopped search goes on where it was. A trial whose gain is below the median of the
earlier ones at the same step is pruned. Several processes may search in one workdir: they share the trials,
and each holds the lock of the folder that it trains in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from flax import nnx

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.evaluation.validation_gain import FEWEST, ValidationGain
from pinnerformer_jax.files import checked_lines, folder_lock, write_json, write_text
from pinnerformer_jax.studies.cells import Stopped
from pinnerformer_jax.studies.tune_report import tune_page
from pinnerformer_jax.training.item_table import split_over_own
from pinnerformer_jax.training.loop import TrainingError, is_finished, open_run, train
from pinnerformer_jax.training.sizes import sized_by_log

if TYPE_CHECKING:
    import optuna

JOURNAL, REPORT, PAGE = "trials.log", "tune.json", "tune.html"
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
    """Search, or go on with the search of a workdir, also beside other processes.

    Args:
        config: where the search starts; its own settings are the first trial.
        workdir: of the search.
        trials: that shall be finished in all, those of earlier calls and other processes too.
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
    split = partial(split_over_own, config=config.training)
    gain = ValidationGain(config, timelines, Catalog.of(timelines), split)
    if gain.users < FEWEST:
        raise ValueError(
            f"tune needs {FEWEST} validation users at earlier splits, and there are {gain.users:,}; a "
            "larger data.validation_share has more"
        )
    study, until = _open(config, workdir), time.monotonic() + minutes * 60
    while time.monotonic() < until:
        with contextlib.ExitStack() as held:
            trial = _ask(study, config, workdir, trials, held)
            if trial is None:
                break
            try:
                best = _train(
                    with_settings(config, trial.params), _folder(workdir, trial.params), gain, trial
                )
            except TrainingError as error:
                print(f"trial {trial.number}: {error}")
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            except optuna.TrialPruned:
                print(f"trial {trial.number}: pruned")
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                print(
                    f"trial {trial.number}: discounted gain {best:.4f}, best so far {_best(study, best):.4f}"
                )
                study.tell(trial, best)
            finally:
                jax.clear_caches()  # later trials run other programs
        write_report(config, study, workdir)
    return write_report(config, study, workdir)


def write_report(config: Config, study: optuna.Study, workdir: Path) -> dict[str, Any]:
    """Write WORKDIR/tune.json and tune.html; what is in the first."""
    found = report(study)
    write_json(workdir / REPORT, found)
    logarithmic = {name for name, (_, _, kind) in space(config).items() if kind == "log"}
    write_text(workdir / PAGE, tune_page(config.name, found, logarithmic))
    return found


def report(study: optuna.Study) -> dict[str, Any]:
    """Finished trials from the best on; the share of the differences in gain that each setting explains
    (fANOVA), from the third finished trial on."""
    import optuna

    done = [trial for trial in study.trials if trial.value is not None and trial.state.name == "COMPLETE"]
    done.sort(key=lambda trial: -trial.value)
    importances = {}
    if len({trial.value for trial in done}) > 2:
        importances = optuna.importance.get_param_importances(study)
    states = [trial.state.name for trial in study.trials]
    return {
        "trials": [{"number": t.number, "gain": t.value, "settings": t.params} for t in done],
        "pruned": states.count("PRUNED"),
        "failed": states.count("FAIL"),
        "importances": importances,
        "command": " ".join(
            f"--{name.replace('_', '-')} {value:.4g}"
            for name, value in (done[0].params if done else {}).items()
        ),
    }


def _open(config: Config, workdir: Path) -> optuna.Study:
    """The study of a workdir."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    workdir.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(workdir / JOURNAL)))
    pruner = optuna.pruners.MedianPruner(n_startup_trials=BEFORE_PRUNING)
    study = optuna.create_study(
        study_name="tune", storage=storage, direction="maximize", load_if_exists=True, pruner=pruner
    )
    meant = _meant(config)
    if study.user_attrs.setdefault("config", meant) != meant:
        raise ValueError(
            f"{workdir} has the search of another config, or of a version that chose by recall: name another "
            "--workdir"
        )
    study.set_user_attr("config", meant)
    return study


def _ask(
    study: optuna.Study, config: Config, workdir: Path, trials: int, held: contextlib.ExitStack
) -> optuna.Trial | None:
    """The next trial, whose folder `held` then locks; None: as many are finished or being trained. One that
    was cut off is asked for again first."""
    import optuna

    bounds = space(config)
    with folder_lock(workdir, wait=True):  # one process asks at a time
        for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            with contextlib.suppress(ValueError), folder_lock(_folder(workdir, trial.params)):
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                if len(trial.params) == len(bounds):
                    study.enqueue_trial(trial.params)
        if _count(study) >= trials:
            return None
        if not study.trials:
            own = {
                name: getattr(getattr(config, name.partition(".")[0]), name.partition(".")[2])
                for name in bounds
            }
            start = {name: min(max(own[name], low), high) for name, (low, high, _) in bounds.items()}
            study.enqueue_trial(start)
        # Another seed each time, or two processes, or a search that goes on, would draw the same settings.
        seed = config.training.seed + len(study.trials)
        study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        trial = study.ask()
        for name, limits in bounds.items():
            _suggest(trial, name, *limits)
        held.enter_context(folder_lock(_folder(workdir, trial.params)))
    return trial


def _meant(config: Config) -> str:
    """A digest of the config, and of the measure: older versions chose by recall."""
    return hashlib.sha256(f"gain {config!r}".encode()).hexdigest()[:16]


def _suggest(trial: optuna.Trial, name: str, low: Any, high: Any, kind: str) -> None:
    if kind == "int":
        trial.suggest_int(name, low, high)
    else:
        trial.suggest_float(name, low, high, log=kind == "log")


def _folder(workdir: Path, settings: Settings) -> Path:
    text = json.dumps(settings, sort_keys=True)
    return workdir / "trials" / hashlib.sha256(text.encode()).hexdigest()[:12]


def _count(study: optuna.Study) -> int:
    return sum(trial.state.name in ("COMPLETE", "PRUNED", "RUNNING") for trial in study.trials)


def _best(study: optuna.Study, value: float) -> float:
    return max(
        [value, *(t.value for t in study.trials if t.value is not None and t.state.name == "COMPLETE")]
    )


def _train(config: Config, folder: Path, gain: ValidationGain, trial: optuna.Trial) -> float:
    """Train to the end; the best gain of its checkpoints.

    Raises:
        Stopped: by a signal.
        TrialPruned: its curve is below the others'.
    """
    import optuna

    measured = len(_curve(folder))

    def watched(graphdef: nnx.GraphDef, params: Any) -> tuple[float, float]:
        nonlocal measured
        found = gain(graphdef, params)
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
        train(*open_run(config, folder, gain=watched))
    if not is_finished(folder):
        raise Stopped
    return max(_curve(folder))


def _curve(folder: Path) -> list[float]:
    lines = [values for _, values in checked_lines(folder / "metrics.jsonl") if values]
    return [values["validation_gain"] for values in lines if "validation_gain" in values]
