"""Make item vectors from a prepared log, and a prepared folder that has them.

    python -m pinnerformer_jax.items --config configs/yours.py --method pinsage [--out DIR] [--evaluate]
    python train.py --config configs/yours.py --data.prepared DIR --workdir runs/yours

Methods: pinsage (graph convolutions over random walks, for those who have text or vectors of their own),
pinsage_svd (half of the numbers pinsage's, half of co-occurrence), svd (co-occurrence and text, what ingest
builds), text. DIR is a copy of data.prepared with these vectors;
default: data.prepared with the method's name behind it. --evaluate prints how well they find what evaluation
users engage with next, beside random vectors, text, svd, item-kNN and counted pairs (in brackets a 95 %
interval, by resampling users). The log must have been ingested with the same config.

A terminal shows a progress bar of walks, training and vectors. The neighbours that the walks found are kept
in DIR_walks.npz: a run that was stopped, or other settings of training, need not walk again.

--reuse OLD gives vectors to items that came after a training: ingest the new log and item table, then name
the folder that the training wrote. Its model is applied to the new content and walks, not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from pinnerformer_jax.command_line import errors_as_messages, parse
from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.evaluation.baselines import neighbours
from pinnerformer_jax.items.engagement import co_engaged, window_engagement
from pinnerformer_jax.items.item_to_item import CUTOFF, DAYS, REACH, Found, compare, inner_products
from pinnerformer_jax.items.methods import Method, Sources, make_vectors, open_sources, pinsage
from pinnerformer_jax.items.publish import publish
from pinnerformer_jax.items.trained import load
from pinnerformer_jax.training.checkpoint import check_ingested, data_digest

if TYPE_CHECKING:
    from rich.table import Table


def main(argv: Sequence[str] | None = None) -> None:
    """Run the verb."""
    from rich.console import Console

    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--method", choices=get_args(Method), required=True, help="how vectors are made")
    flags.add_argument("--out", type=Path, metavar="DIR", help="prepared folder to write")
    flags.add_argument("--reuse", type=Path, metavar="OLD", help="folder of an earlier pinsage: its model")
    flags.add_argument("--evaluate", action="store_true", help="measure them, beside simpler ones")
    values, config = parse(__doc__, argv, flags)
    with errors_as_messages():
        if values.reuse and values.method != "pinsage":
            raise ValueError(f"--reuse takes a model, and --method {values.method} has none: leave it out")
        timelines = Timelines.open(config.data.prepared)
        check_ingested(timelines.manifest, config)
        sources = open_sources(config, timelines)
        out = values.out or Path(f"{config.data.prepared.rstrip('/')}_{values.method}")
        trained = load(values.reuse / "catalog" / "model.npz") if values.reuse else None
        walks = out.with_name(f"{out.name}_walks.npz")
        if trained:
            vectors, _ = pinsage(sources, trained=trained, walks=walks)
        else:
            vectors, trained = make_vectors(values.method, sources, walks=walks)
        publish(timelines, out, vectors, provenance(values.method, config, timelines), trained)
    print(f"wrote {out}: {vectors.any(axis=1).sum():,} of {len(vectors):,} items have a vector")
    if values.evaluate:
        Console().print(table(evaluate(timelines, sources, {values.method: vectors})))


def provenance(method: Method, config: Config, timelines: Timelines) -> dict[str, Any]:
    """What vectors are a function of, for vectors.json."""
    of_method = to_dict(config.pinsage) if method.startswith("pinsage") else {"seed": config.pinsage.seed}
    return {
        "method": method,
        "settings": of_method | {"dim": config.items.built_dim},
        "data": data_digest(timelines.manifest),
    }


def evaluate(
    timelines: Timelines, sources: Sources, made: dict[str, np.ndarray]
) -> dict[str, dict[str, Found]]:
    """Item-to-item results of some vectors and of random, text, svd, item-kNN and counted pairs.

    Args:
        timelines: a prepared folder.
        sources: its training events.
        made: vectors by method.
    """
    from scipy.sparse import csr_matrix

    config, graph = sources.config, sources.graph
    random = np.random.default_rng(config.pinsage.seed).standard_normal((graph.items, 64), np.float32)
    vectors: dict[str, np.ndarray] = {"random": random}
    vectors |= {name: make_vectors(name, sources)[0] for name in ("text", "svd") if name not in made}
    if config.items.vector and "given" not in made:
        vectors["given"] = np.asarray(sources.catalog.features, np.float32)
    edges = np.ones(len(graph.user_items), np.float32), graph.user_items, graph.user_offsets
    similar = neighbours(csr_matrix(edges, shape=(len(graph.user_offsets) - 1, graph.items)))
    scorers = {name: inner_products(rows) for name, rows in (vectors | made).items()}
    scorers["item-kNN"] = lambda items: similar[items].toarray()
    followed = co_engaged(sources.events, REACH, DAYS)
    ones = np.ones(len(followed.first), np.float32)
    counts = csr_matrix((ones, (followed.first, followed.second)), shape=(graph.items, graph.items))
    scorers["pair counts"] = lambda items: counts[items].toarray()
    pairs = co_engaged(window_engagement(timelines, config.data.positives), REACH, DAYS)
    return compare(scorers, pairs, graph.connected, config.pinsage.seed)


def table(results: dict[str, dict[str, Found]]) -> Table:
    """For the terminal."""
    from rich.table import Table

    counts = next(iter(results.values()))
    shown = Table(
        title="Item to item: " + ", ".join(f"{of.pairs:,} {name} pairs" for name, of in counts.items())
    )
    shown.add_column("vectors")
    for name in counts:
        shown.add_column(f"hit rate@{CUTOFF}, {name}", justify="right")
        shown.add_column(f"MRR, {name}", justify="right")
    for method, by_kind in results.items():
        cells = [
            cell
            for of in by_kind.values()
            for cell in (f"{of.hit_rate:.4f} ({of.low:.4f}-{of.high:.4f})", f"{of.mrr:.4f}")
        ]
        shown.add_row(method, *cells)
    return shown


if __name__ == "__main__":
    main()
