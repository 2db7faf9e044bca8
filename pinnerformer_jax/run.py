"""From a log to everybody's recommendations: ingest, train, evaluate, embed and recommend in one command.

    python -m pinnerformer_jax.run --config configs/yours.py --workdir runs/yours
        [--final] [--snapshots DIR] [--out FILE] [-k 10] [--section.setting value ...]

The steps are the verbs of these names, one after the other. The same command goes on where it was stopped or
killed: ingest runs again (a log that is still the same gives the same bytes), the training resumes, and an
evaluation of the same checkpoint is not repeated. If the log has changed, the training says so; choose
another --workdir then. All users are embedded as of the end of the evaluation window. The last lines are
`name: value`.

With --final the model that is served is not the one that was evaluated: `train --final` trains another in
WORKDIR-final, on all users and up to the last day, with the settings that the evaluated run found.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pinnerformer_jax import __version__
from pinnerformer_jax.command_line import errors_as_messages, parse
from pinnerformer_jax.config import Config
from pinnerformer_jax.data.contracts import format_time
from pinnerformer_jax.data.timelines import Manifest
from pinnerformer_jax.evaluate import evaluate_run
from pinnerformer_jax.evaluation.results import Provenance
from pinnerformer_jax.ingest import summary
from pinnerformer_jax.ingestion.ingest import prepare
from pinnerformer_jax.retrieval.priors import read_priors
from pinnerformer_jax.runtime import set_up_process
from pinnerformer_jax.serving import bulk, daily
from pinnerformer_jax.serving.plan import Job
from pinnerformer_jax.serving.recommender import Recommender
from pinnerformer_jax.train import fit, fit_final
from pinnerformer_jax.training.checkpoint import open_data, read_checkpoint
from pinnerformer_jax.training.loop import TrainingError, is_finished
from pinnerformer_jax.training.run_record import data_digest

STOPPED = 130
"""Exit code of a training that Ctrl-C or SIGTERM stopped, as of a program that the signal ends."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="folder of the run")
    flags.add_argument(
        "--final", action="store_true", help="serve a run on all users and days, in WORKDIR-final"
    )
    flags.add_argument("--snapshots", type=Path, metavar="DIR", help="of the states (WORKDIR/snapshots)")
    flags.add_argument(
        "--out", type=Path, metavar="FILE",
        help="recommendations: .parquet, .csv or .jsonl (WORKDIR/recommendations.parquet)",
    )  # fmt: skip
    flags.add_argument("-k", type=int, default=10, help="recommendations for each user (%(default)s)")
    values, config = parse(__doc__, argv, flags)
    set_up_process()
    try:
        with errors_as_messages():
            return run(
                config,
                values.workdir,
                values.snapshots or values.workdir / "snapshots",
                values.out or values.workdir / "recommendations.parquet",
                values.k,
                values.final,
            )
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run(config: Config, workdir: Path, snapshots: Path, out: Path, k: int, final: bool = False) -> int:
    """The five steps, and `train --final` between them if asked for; the exit code.

    Args:
        config: the experiment.
        workdir: folder of the run.
        snapshots: where the state is published.
        out: file of the recommendations; its name ends with one of `bulk.FORMATS`.
        k: recommendations for each user.
        final: serve a run on everything, in WORKDIR-final.

    Raises:
        ValueError, OSError: as the steps do.
        TrainingError: the training cannot go on.
    """
    from rich.console import Console

    if out.suffix not in bulk.FORMATS:
        raise ValueError(f"--out {out}: the name must end with one of {', '.join(bulk.FORMATS)}")
    if k < 1:
        raise ValueError(f"-k {k}: at least 1")
    console, number = Console(), itertools.count(1)

    def begin(step: str) -> None:
        console.rule(f"{next(number)} of {6 if final else 5}: {step}", align="left")

    begin("ingest")
    manifest = prepare(config)
    console.print(summary(manifest))

    begin("train")
    fit(config, workdir)
    if not is_finished(workdir):
        print("stopped; the same command goes on")
        return STOPPED

    begin("evaluate")
    results = _evaluated(workdir, manifest) or evaluate_run(workdir)

    served = workdir
    if final:
        begin("train --final")
        served = workdir.with_name(f"{workdir.name}-final")
        fit_final(workdir, served)
        if not is_finished(served):
            print("stopped; the same command goes on")
            return STOPPED

    begin("embed")
    day = format_time(open_data(served)[0].manifest.evaluation_end - 1)[:10]
    state = daily.run(Job(workdir=served, snapshots=snapshots, date=day, everyone=True))

    begin("recommend")
    counts = bulk.write_recommendations(Recommender.open(snapshots), None, k, out)

    console.rule("done", align="left")
    for name, value in _closing(config, manifest, results):
        print(f"{name}: {value}")
    print(f"evaluated: {workdir}")
    on_all = ", trained on all users and up to the last day; not evaluated itself" if final else ""
    print(f"served: {served}{on_all}")
    print(f"report: {(workdir / 'report.html').absolute().as_uri()}")
    print(f"state: {snapshots / state}")
    print(f"recommendations: {out}: {counts.summary()}")
    return 0


def _evaluated(workdir: Path, manifest: Manifest) -> dict[str, Any] | None:
    """What results.json says, if this version wrote it about the best checkpoint, these data and these
    settings; None: it did not."""
    trained = read_checkpoint(workdir)
    wanted = Provenance.now(
        __version__, "best", trained.chosen_by, trained.step, data_digest(manifest), trained.config
    )
    same = ("version", "checkpoint", "step", "data", "config_digest")
    try:
        results = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
        if any(results[name] != getattr(wanted, name) for name in same):
            return None
        read_priors(workdir, trained.step)
        (workdir / "report.html").stat()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    print(f"{workdir / 'results.json'} is of the same checkpoint, data and settings; its verdict:")
    for sentence in results["verdict"]:
        print(sentence)
    return results


def _closing(config: Config, manifest: Manifest, results: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    counts = manifest.counts
    yield "log", ", ".join(config.data.events)
    yield "prepared", config.data.prepared
    yield "users", sum(counts["users"].values())
    yield "events", counts["events"]
    yield "items", counts["items"]
    yield "checkpoint", f"step {results['step']}"
    for row in results["rows"]:
        if (row["protocol"], row["metric"]) == ("full", "recall@10"):
            yield f"recall@10 of {row['method']}", f"{row['value']:.4f}"
    yield "verdict", results["verdict"][0]


if __name__ == "__main__":
    sys.exit(main())
