"""Evaluate a trained run on users it has never seen, beside the baselines.

    python -m pinnerformer_jax.evaluate --workdir runs/demo [--checkpoint best|last] [--staleness]
        [--block FILE] [--allow FILE] [--at-most N --category-of FILE ITEM CATEGORY]
        [--evaluation.cutoffs 10 50] [--index.leaves 500] [--embedding.batch-size 256]

Prints a verdict and tables, and writes results.json and report.html into the workdir. The method
"pinnerformer" is the inner product alone; "served" adds what the user did before and what is popular now;
"vectors" is the inner product of longer vectors that hold the same, for a vector database (the verb vectors).
The weights of these priors are fitted on validation users at earlier splits and kept in priors.json, from
which the daily job and the verb recommend serve them. --staleness also embeds the users daily and before
every event, to measure what a daily batch loses (paper, Table 2). --block, --allow and --at-most are rules of
a shop, as `recommend` takes them: what they cost is measured, and how often lists without them would break
them. If the run's prepared folder was moved, name it with --data.prepared. Wrong input exits with 2.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from rich.console import Console

from pinnerformer_jax import __version__
from pinnerformer_jax.command_line import errors_as_messages
from pinnerformer_jax.config import Config, EmbeddingConfig, EvaluationConfig, IndexConfig
from pinnerformer_jax.evaluation.baselines import baselines, choose_constants
from pinnerformer_jax.evaluation.comparison import SERVED, VECTORS
from pinnerformer_jax.evaluation.evaluator import EvaluationData, Evaluator
from pinnerformer_jax.evaluation.examples import examples, missed
from pinnerformer_jax.evaluation.fit_priors import fit_priors
from pinnerformer_jax.evaluation.prior_vectors import by_vectors, fit_own_weight
from pinnerformer_jax.evaluation.reasons import score_drops
from pinnerformer_jax.evaluation.report import print_results, write_page, write_results
from pinnerformer_jax.evaluation.results import NotMeasured, Provenance, Results, ScannResult
from pinnerformer_jax.evaluation.verdict import verdict
from pinnerformer_jax.evaluation.within_rules import measure_rules
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.retrieval.priors import write_priors
from pinnerformer_jax.retrieval.scann_index import ScannIndex, against_exact
from pinnerformer_jax.runtime import set_up_process
from pinnerformer_jax.serving.shop_rules import ShopRules, add_flags, rules_of
from pinnerformer_jax.training.checkpoint import open_data, read_checkpoint
from pinnerformer_jax.training.final import check_not_final
from pinnerformer_jax.training.item_table import split_over_own
from pinnerformer_jax.training.run_record import data_digest, read_record

if TYPE_CHECKING:
    import pyarrow as pa

RETRIEVAL_QUERIES = 4096
"""Exact search and ScaNN are compared on at most so many users."""


@dataclass(frozen=True)
class Settings:
    """The settings that may differ from those of the training."""

    evaluation: EvaluationConfig
    embedding: EmbeddingConfig
    index: IndexConfig

    @classmethod
    def of(cls, config: Config) -> Settings:
        """Those of a run."""
        return cls(config.evaluation, config.embedding, config.index)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    values, config = parse(argv)
    set_up_process()
    with errors_as_messages():
        evaluate_run(
            values.workdir, values.checkpoint, config, values.staleness, lambda ids: rules_of(values, ids)
        )
    return 0


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Config]:
    """The flags, and the run's config with the evaluation settings that the command line overrides."""
    import tyro

    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        description=__doc__,
        usage="%(prog)s --workdir DIR [--checkpoint best|last] [--staleness] [--section.setting value]",
        add_help=False,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="default: best")
    parser.add_argument("--staleness", action="store_true", help="users embedded once, daily, in real time")
    add_flags(parser)
    parser.add_argument(
        "--data.prepared", dest="prepared", metavar="DIR",
        help="where the run's prepared folder is now (default: where the training found it)",
    )  # fmt: skip
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        tyro.cli(Settings, default=Settings.of(Config()), args=["--help"], description="Settings:")
    values, overrides = parser.parse_known_args(argv)
    with errors_as_messages():
        config = read_record(values.workdir).config
    settings = tyro.cli(Settings, default=Settings.of(config), args=overrides)
    if values.prepared:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, prepared=values.prepared))
    return values, dataclasses.replace(config, **vars(settings))


def evaluate_run(
    workdir: str | Path,
    checkpoint: Literal["best", "last"] = "best",
    config: Config | None = None,
    with_staleness: bool = False,
    rules_for: Callable[[pa.Array], ShopRules | None] | None = None,
) -> dict[str, Any]:
    """Evaluate a trained run on users it has never seen, beside the baselines.

    Prints the tables, and writes results.json and report.html into the workdir.

    Args:
        workdir: of the run.
        checkpoint: the best or the last, see `Checkpoints`.
        config: the run's, with other settings of evaluation, embedding or index, or with the place that its
            prepared folder (data.prepared) was moved to; None: the run's.
        with_staleness: also embed the users daily and before every event (paper, Table 2).
        rules_for: gives rules of a shop from the ids of the items; what they change is measured. Such as
            `lambda ids: ShopRules(block=sold_out)`.

    Returns:
        What is in results.json; "rows" has a number for each method, protocol and metric.

    Raises:
        FileNotFoundError: there is no run, no checkpoint or no prepared folder.
        ValueError: the prepared folder is not the one of the training, no user can be evaluated (a final run
            was trained on all), or the rules are wrong.
    """
    console, workdir = Console(), Path(workdir)
    trained_with, graphdef, params, step, chosen_by = read_checkpoint(workdir, checkpoint)
    check_not_final(trained_with, workdir)
    moved = config and config.data.prepared != trained_with.data.prepared
    prepared, config = config.data.prepared if config and moved else None, config or trained_with
    with tempfile.TemporaryFile(dir=workdir) as room:  # the results can be written there
        room.write(bytes(2**20))
        room.flush()
    timelines, catalog = open_data(workdir, prepared)
    shop_rules = rules_for(catalog.id_column) if rules_for else None
    data = EvaluationData(config, timelines, catalog)
    protocol, settings = data.protocol, config.evaluation
    table = split_over_own(catalog.features, config.training)
    embedder = Embedder(graphdef, params, catalog.features, table)
    model = Evaluator(data, embedder, config.model.max_length)

    with console.status("fitting the priors on validation users"):
        fit = fit_priors(model)
        priors = fit_own_weight(model, fit.priors, config.embedding.own_dim)
    timelines.check()
    write_priors(workdir, priors, step, fit.sentence)
    with console.status("fitting the baselines"):
        constants = choose_constants(data.earlier)
        others = baselines(data, constants)
    served = model.served(priors)
    with_vectors = {VECTORS: by_vectors(model, priors)} if priors.used else {}
    methods = model.metrics({SERVED: served, **with_vectors, **others})
    with console.status("building and searching the ScaNN index"):
        candidates = model.item_vectors[catalog.reachable]
        scann = measure_scann(model.user_vectors, candidates, max(settings.cutoffs), config.index)
    stale = None
    if with_staleness:
        with console.status("embedding the users daily and in real time"):
            stale = model.staleness()
    within = None
    if shop_rules is not None:
        rules = shop_rules.for_items(catalog.id_column)
        within = measure_rules(served, protocol, rules, settings)
    results = Results(
        provenance=Provenance.now(
            __version__, checkpoint, chosen_by, step, data_digest(timelines.manifest), config
        ),
        methods=methods,
        protocol=protocol.summary,
        topics=data.topics[1],
        scann=scann,
        config=config,
        verdict=verdict(methods, protocol.summary, priors),
        priors=priors,
        priors_fit=fit.sentence,
        constants=constants._asdict(),
        staleness=stale,
        rules=within,
    )

    drops = partial(score_drops, model, priors)
    where = served, drops, protocol, timelines, catalog, settings
    drawn, not_served = examples(*where), missed(*where)
    timelines.check()
    print_results(results, console)
    for path in (write_results(results, workdir), write_page(results, drawn, not_served, workdir)):
        print(f"wrote {path}")
    return results.to_json()


def measure_scann(
    users: np.ndarray, items: np.ndarray, k: int, config: IndexConfig
) -> ScannResult | NotMeasured:
    """ScaNN beside exact search of the k nearest items, float32 [U, D] and [N, D] vectors."""
    try:
        index = ScannIndex.build(items, config, users[::4])
    except ImportError as error:
        return NotMeasured(str(error))
    search = against_exact(index, items, users[:RETRIEVAL_QUERIES], min(k, len(items)))
    device = jax.devices()[0].device_kind
    return ScannResult(
        items=len(items), device=device, **search._asdict(), **dataclasses.asdict(index.settings)
    )


if __name__ == "__main__":
    sys.exit(main())
