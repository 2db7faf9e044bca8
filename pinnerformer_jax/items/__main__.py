"""Make item vectors from a prepared log, and a prepared folder that has them.

    python -m pinnerformer_jax.items --config configs/yours.py --method pinsage [--out DIR] [--evaluate]
    python train.py --config configs/yours.py --data.prepared DIR --workdir runs/yours

Methods: pinsage (graph convolutions over random walks, for items with text or given vectors),
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
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pinnerformer_jax.command_line import errors_as_messages, parse
from pinnerformer_jax.data.catalog import MODEL, catalog_path
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.files import atomic_folder
from pinnerformer_jax.items.item_to_item import evaluate_vectors, results_table
from pinnerformer_jax.items.methods import Method, make_vectors, open_sources, pinsage
from pinnerformer_jax.items.prepared_copy import check_out, fill_copy, provenance, reused_provenance
from pinnerformer_jax.items.trained import load
from pinnerformer_jax.training.run_record import check_ingested


def main(argv: Sequence[str] | None = None) -> None:
    """Run the verb."""
    from rich.console import Console

    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--method", choices=get_args(Method), required=True, help="how vectors are made")
    flags.add_argument("--out", type=Path, metavar="DIR", help="prepared folder to write")
    flags.add_argument("--reuse", type=Path, metavar="OLD", help="folder of an earlier pinsage: its model")
    flags.add_argument("--evaluate", action="store_true", help="measure them, beside simpler ones")
    values, config = parse(__doc__, argv, flags)
    with errors_as_messages(), contextlib.ExitStack() as stack:
        if values.reuse and values.method != "pinsage":
            raise ValueError(f"--reuse takes a model, and --method {values.method} has none: leave it out")
        timelines = Timelines.open(config.data.prepared)
        check_ingested(timelines.manifest, config)
        sources = open_sources(config, timelines)
        out = values.out or Path(f"{config.data.prepared.rstrip('/')}_{values.method}")
        check_out(timelines, out)
        writing = stack.enter_context(atomic_folder(out.resolve()))  # a second run is refused at once
        made = provenance(values.method, config, timelines)
        trained, old = None, timelines
        if values.reuse:
            old = Timelines.open(values.reuse)  # whose files are verified
            trained, made = load(catalog_path(values.reuse) / MODEL), reused_provenance(made, values.reuse)
        walks = out.with_name(f"{out.name}_walks.npz")
        if trained:
            vectors, more = pinsage(sources, trained=trained, walks=walks)
        else:
            vectors, more = make_vectors(values.method, sources, walks=walks)
        old.check()
        fill_copy(timelines, writing, vectors, made, more)
    print(f"wrote {out}: {vectors.any(axis=1).sum():,} of {len(vectors):,} items have a vector")
    if values.evaluate:
        Console().print(results_table(evaluate_vectors(timelines, sources, {values.method: vectors})))


if __name__ == "__main__":
    main()
