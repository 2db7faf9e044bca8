"""RecTools' sequence models beside ours, on our evaluation: same users, histories, targets and candidates.

    python3 -m venv PEERS && PEERS/bin/pip install 'rectools[torch]==0.19.0'
    python -m benchmarks.peers --workdir RUN --python PEERS/bin/python --minutes 1 2 5 --json peers.json

RecTools is no dependency: it runs in the environment that the second line names, in a process of its own
(benchmarks/peers_rectools.py). It gets the training users' events up to t, as ids and times, one interaction
an event, and trains for so many CPU minutes. The evaluated users, whom it has not trained on, get their
vectors from their histories up to t. Several budgets are stages of one training. An item that it has not seen
in training gets the lowest score. Where what is served leaves out what a user had, so do RecTools' models.

The table has our run (the inner product alone, and as served), the baselines of the run's results.json, and
each model of RecTools at each budget, with paired differences of both of ours from it. Settings of RecTools'
models are chosen on an earlier split, which has no run of ours:

    python -m benchmarks.peers --prepared EARLIER --config FILE --python PEERS/bin/python --minutes 1 2 5
        --settings '{"n_factors": 128, "lr": 0.0003}'

Dimensions: U evaluated users, N items, D numbers of a vector.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pinnerformer_jax.command_line import errors_as_messages
from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import from_dict, load_config
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.evaluation.comparison import (
    MODEL,
    SERVED,
    Scorer,
    evaluate_methods,
    inner_products,
    unseen_alone,
)
from pinnerformer_jax.evaluation.counts import training_histories
from pinnerformer_jax.evaluation.evaluator import EvaluationData, Evaluator
from pinnerformer_jax.evaluation.figures import label
from pinnerformer_jax.evaluation.results import MetricRow
from pinnerformer_jax.files import write_json
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.retrieval.priors import read_priors
from pinnerformer_jax.training.checkpoint import open_data, read_checkpoint
from pinnerformer_jax.training.run_record import data_digest

CHILD = Path(__file__).with_name("peers_rectools.py")
MODELS = ("sasrec", "sasrec_ligr", "bert4rec")
"""Of RecTools: SASRec; the same with LiGR blocks; BERT4Rec, which predicts masked items. All with softmax."""
COLUMNS = ("paper", "full", "new_items")
LOWEST = np.finfo(np.float32).min


def export_split(data: EvaluationData, folder: Path) -> None:
    """Write split.npz: events up to t, user by user, oldest first.

    train_user, train_item, train_time [training events]; history_user, history_item, history_time [events of
    the evaluated users]. Users are numbers from 0 on, apart for both; items are rows of the catalogue; times
    are seconds since 1970.
    """
    manifest = data.timelines.manifest
    table = positive_table(data.config.data.positives, manifest.actions, manifest.surfaces)
    users, items, times = [], [], []
    first = 0
    for history in training_histories(data.timelines, table):
        users.append(first + history.owners)
        items.append(history.item)
        times.append(history.time)
        first += len(history.length)
    history = data.protocol.history
    np.savez(
        folder / "split.npz",
        train_user=np.concatenate(users),
        train_item=np.concatenate(items),
        train_time=np.concatenate(times),
        history_user=history.owners,
        history_item=history.item,
        history_time=history.time,
    )


def train(python: str, child: Path, folder: Path, settings: dict[str, Any]) -> None:
    """Train a model in its environment; its vectors are then in FOLDER/vectors-MINUTES.npz.

    Raises:
        ValueError: the process failed; with its last lines.
    """
    write_json(folder / "settings.json", settings)
    command = [python, str(child.absolute()), str(folder)]
    # OpenMP's threads would use up CPU time while they wait for each other.
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-15:])
        raise ValueError(f"{' '.join(command)} ended with code {done.returncode}:\n{last}")


def read_vectors(path: Path, users: int, items: int) -> tuple[Scorer, dict[str, Any]]:
    """The scorer of a model's vectors, and facts of its training.

    Args:
        path: an .npz with users [U, D], items [N, D], known [N] (the items that it was trained on), embedded
            [U] (the users that have a known item; the others' vectors are zero) and scalars.
        users: U.
        items: N.

    Raises:
        ValueError: the vectors are not of these users and items, or not finite.
    """
    with np.load(path, allow_pickle=False) as stored:
        found = {name: stored[name] for name in stored.files}
    vectors, catalogue, known = found.pop("users"), found.pop("items"), found.pop("known")
    if len(vectors) != users or not len(catalogue) == len(known) == items:
        raise ValueError(
            f"{path}: vectors of {len(vectors)} users and {len(catalogue)} items, flags of {len(known)}; "
            f"wanted {users} users and {items} items"
        )
    products = inner_products(vectors, catalogue)
    facts = {
        "unknown_items": int((~known).sum()),
        "users_without_vector": int((~found.pop("embedded")).sum()),
    }
    facts |= {name: value.item() for name, value in found.items()}
    return lambda places: np.where(known, np.asarray(products(places)), LOWEST), facts


def our_scorers(workdir: Path, results: dict[str, Any]) -> tuple[EvaluationData, dict[str, Scorer], bool]:
    """The evaluation data of a run that was evaluated, its scorers (alone and served), and whether what is
    served leaves out what a user had.

    Raises:
        ValueError: results.json is of another checkpoint or other data.
    """
    config, graphdef, params, step, _ = read_checkpoint(workdir, results["checkpoint"])
    config = dataclasses.replace(config, evaluation=from_dict(results["config"]).evaluation)
    timelines, catalog = open_data(workdir)
    if (results["step"], results["data"]) != (step, data_digest(timelines.manifest)):
        raise ValueError(
            f"{workdir}/results.json: of step {results['step']} or other data; run evaluate again"
        )
    data = EvaluationData(config, timelines, catalog)
    model = Evaluator(data, Embedder(graphdef, params, catalog.features), config.model.max_length)
    priors, _ = read_priors(workdir, step)
    return data, {MODEL: model.scorer, SERVED: model.served(priors)}, priors.hide_seen


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Train the models, evaluate all; what is printed and written."""
    others: list[dict[str, Any]] = []
    if args.workdir:
        file = args.workdir / "results.json"
        if not file.is_file():
            raise FileNotFoundError(f"{file}: run python evaluate.py --workdir {args.workdir} first")
        results = json.loads(file.read_text(encoding="utf-8"))
        data, scorers, hides = our_scorers(args.workdir, results)
        others = [row for row in results["rows"] if row["method"] not in (MODEL, SERVED)]
    else:
        config: Config = load_config(args.config)
        timelines, catalog = Timelines.open(args.prepared), Catalog.open(args.prepared)
        data, scorers, hides = EvaluationData(config, timelines, catalog), {}, False
    protocol, peers = data.protocol, {}
    for model in args.models:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            export_split(data, folder)
            settings = {
                "model": model, "model_settings": args.settings, "minutes": args.minutes, "seed": args.seed,
                "threads": args.threads, "length": data.config.model.max_length,
                "users": len(protocol.users), "items": len(protocol.reachable),
            }  # fmt: skip
            train(args.python, CHILD, folder, settings)
            for minutes in sorted(args.minutes):
                method = f"{model}, {minutes:g} min"
                path = folder / f"vectors-{minutes:g}.npz"
                scorer, peers[method] = read_vectors(path, settings["users"], settings["items"])
                scorers[method] = unseen_alone(scorer, protocol.history) if hides else scorer
    found = evaluate_methods(scorers, protocol, data.topics[0], data.config.evaluation)
    differences = found.differences
    if scorers.pop(SERVED, None):  # the priors would help any model: also compare the inner product alone
        alone = evaluate_methods(scorers, protocol, data.topics[0], data.config.evaluation)
        differences = differences + alone.differences
    return {
        "benchmark": "peers", "command": shlex.join(["python", "-m", "benchmarks.peers", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": data_digest(data.timelines.manifest), "protocol": dataclasses.asdict(protocol.summary),
        "settings": args.settings, "seed": args.seed, "threads": args.threads, "peers": peers,
        "rows": [row.to_json() for row in found.rows] + others,
        "differences": [dataclasses.asdict(each) for each in differences],
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The result as a table for the terminal: recall@10 with intervals, the best of paper first."""
    rows = [MetricRow(**row) for row in result["rows"]]
    recall = {(row.method, row.protocol): row for row in rows if row.metric == "recall@10"}
    methods = sorted({row.method for row in rows}, key=lambda name: -recall[name, "paper"].value)
    protocol, facts = result["protocol"], result["peers"]
    lines = [
        f"recall@10 of {protocol['users']:,} users, {protocol['t']} to {protocol['window_end']}",
        f"{'method':32}  {'paper':14}  {'full':14}  {'new items':14}  CPU min  epochs",
    ]
    for name in methods:
        cells = [f"{_cell(recall.get((name, column))):14}" for column in COLUMNS]
        fact = facts.get(name)
        spent = f"{fact['cpu_minutes']:7.2f}  {fact['epochs']:6.1f}" if fact else ""
        lines.append(f"{name if fact else label(name):32}  {'  '.join(cells)}  {spent}".rstrip())
    lines += [
        f"{label(each['method'])} less {each['other']}, {each['protocol']}: {each['value']:+.3f}, "
        f"interval {each['low']:+.3f} to {each['high']:+.3f}"
        for each in result["differences"]
        if each["other"] in facts
    ]
    lines += [
        f"{name}: {fact['unknown_items']:,} items not seen in training, "
        f"{fact['users_without_vector']:,} users without a vector; {fact['versions']}"
        for name, fact in facts.items()
    ]
    return "\n".join(lines)


def _cell(row: MetricRow | None) -> str:
    if row is None:
        return ""
    half = "" if row.low is None or row.high is None else f" ± {(row.high - row.low) / 2:.3f}"
    return f"{row.value:.3f}{half}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the verb."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, metavar="RUN", help="a run of ours that was evaluated")
    parser.add_argument("--prepared", type=Path, metavar="DIR", help="instead: a prepared folder, no run")
    parser.add_argument("--config", type=Path, metavar="FILE", help="with --prepared: its config")
    parser.add_argument("--python", required=True, metavar="FILE", help="Python of RecTools' environment")
    minutes = "CPU minutes of training after which vectors are taken; training ends after the most"
    parser.add_argument("--minutes", type=float, nargs="+", required=True, metavar="M", help=minutes)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["sasrec"], metavar="NAME")
    settings = "arguments of RecTools' model other than its defaults, as JSON"
    parser.add_argument("--settings", type=json.loads, default={}, metavar="JSON", help=settings)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    args = parser.parse_args(argv)
    if bool(args.workdir) == bool(args.prepared) or bool(args.prepared) != bool(args.config):
        parser.error("give --workdir RUN, or --prepared DIR with --config FILE")
    with errors_as_messages():
        result = compare(args)
    if args.json:
        write_json(args.json, result)
    print(table(result))


if __name__ == "__main__":
    main()
