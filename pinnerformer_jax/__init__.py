"""PinnerFormer (Pancha et al., KDD 2022) in JAX: one embedding a user for the next two weeks.

    import pinnerformer_jax as pf

    config = pf.load_config("configs/demo.py")
    pf.prepare(config)                                       # event log -> prepared folder
    pf.fit(config, "runs/demo")                              # trains, or resumes
    pf.evaluate_run("runs/demo")                             # results.json, report.html
    vectors = pf.embed_events("runs/demo", events)           # of a pandas, polars or Arrow table
    pf.Recommender.open("snapshots").recommend(user, k=10)   # from what the daily job published
    pf.write_vectors("snapshots", "vectors")                 # the same for a vector database

For a training loop of your own (examples/own_loop.py): `open_training_data` opens a prepared folder,
`Windows` gives batches, `PinnerFormer` is the model, and `training_loss` is the whole loss, to take the
gradient of. An objective of your own is a function that returns `Targets`; `fit` and `training_loss` take it
(docs/adding-an-objective.md). A name is imported when it is first used: importing the package costs nothing.

The package has one folder for each stage; a stage imports only the stages before it (tests/test_imports.py):
data, ingestion, model, objective, training, retrieval, evaluation, items, serving, studies, bench.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from pinnerformer_jax.config import Config as Config
    from pinnerformer_jax.config_files import load_config as load_config
    from pinnerformer_jax.data.catalog import Catalog as Catalog
    from pinnerformer_jax.data.timelines import Timelines as Timelines
    from pinnerformer_jax.data.windows import Windows as Windows
    from pinnerformer_jax.evaluate import evaluate_run as evaluate_run
    from pinnerformer_jax.ingestion.ingest import prepare as prepare
    from pinnerformer_jax.model.inference import Embedder as Embedder
    from pinnerformer_jax.model.pinnerformer import PinnerFormer as PinnerFormer
    from pinnerformer_jax.model.towers import Sizes as Sizes
    from pinnerformer_jax.objective.frequency import empty_sketch as empty_sketch
    from pinnerformer_jax.objective.loss import chunked_sampled_softmax as chunked_sampled_softmax
    from pinnerformer_jax.objective.loss import sampled_softmax as sampled_softmax
    from pinnerformer_jax.objective.negatives import mixed_pool as mixed_pool
    from pinnerformer_jax.objective.targets import Targets as Targets
    from pinnerformer_jax.objective.targets import all_action as all_action
    from pinnerformer_jax.objective.targets import dense_all_action as dense_all_action
    from pinnerformer_jax.objective.targets import next_action as next_action
    from pinnerformer_jax.objective.targets import sasrec as sasrec
    from pinnerformer_jax.retrieval.exact import search as search
    from pinnerformer_jax.retrieval.scann_index import ScannIndex as ScannIndex
    from pinnerformer_jax.serving.embed_events import embed_events as embed_events
    from pinnerformer_jax.serving.recommender import Recommender as Recommender
    from pinnerformer_jax.serving.vector_files import write_vectors as write_vectors
    from pinnerformer_jax.train import fit as fit
    from pinnerformer_jax.training.checkpoint import load_for_inference as load_for_inference
    from pinnerformer_jax.training.inputs import open_training_data as open_training_data
    from pinnerformer_jax.training.training_loss import training_loss as training_loss

__all__ = [
    "Catalog",
    "Config",
    "Embedder",
    "PinnerFormer",
    "Recommender",
    "ScannIndex",
    "Sizes",
    "Targets",
    "Timelines",
    "Windows",
    "__version__",
    "all_action",
    "chunked_sampled_softmax",
    "dense_all_action",
    "embed_events",
    "empty_sketch",
    "evaluate_run",
    "fit",
    "load_config",
    "load_for_inference",
    "mixed_pool",
    "next_action",
    "open_training_data",
    "prepare",
    "sampled_softmax",
    "sasrec",
    "search",
    "training_loss",
    "write_vectors",
]

_MODULE_OF = {
    "Catalog": "data.catalog",
    "Config": "config",
    "Embedder": "model.inference",
    "PinnerFormer": "model.pinnerformer",
    "Recommender": "serving.recommender",
    "ScannIndex": "retrieval.scann_index",
    "Sizes": "model.towers",
    "Targets": "objective.targets",
    "Timelines": "data.timelines",
    "Windows": "data.windows",
    "all_action": "objective.targets",
    "chunked_sampled_softmax": "objective.loss",
    "dense_all_action": "objective.targets",
    "embed_events": "serving.embed_events",
    "empty_sketch": "objective.frequency",
    "evaluate_run": "evaluate",
    "fit": "train",
    "load_config": "config_files",
    "load_for_inference": "training.checkpoint",
    "mixed_pool": "objective.negatives",
    "next_action": "objective.targets",
    "open_training_data": "training.inputs",
    "prepare": "ingestion.ingest",
    "sampled_softmax": "objective.loss",
    "sasrec": "objective.targets",
    "search": "retrieval.exact",
    "training_loss": "training.training_loss",
    "write_vectors": "serving.vector_files",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
