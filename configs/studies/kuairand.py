"""The paper's tables on KuaiRand-Pure (data: see configs/kuairand.py).

    export KUAIRAND=DIR
    python -m pinnerformer_jax.ingest --config configs/kuairand.py
    python -m pinnerformer_jax.study --config configs/studies/kuairand.py

Three seeds make 90 trainings. They took 2.3 hours on one core of a busy machine. Results: docs/studies.md.
"""

import dataclasses
from pathlib import Path

from pinnerformer_jax.config_files import load_config
from pinnerformer_jax.studies import study_tables

kuairand = load_config(Path(__file__).parents[1] / "kuairand.py")
config = dataclasses.replace(kuairand, name="KuaiRand-Pure, two weeks")

tables = (
    study_tables.pinnersage(),
    study_tables.staleness(),
    study_tables.objectives(half_horizon=2.5),
    study_tables.negatives(),
    study_tables.single_tasks(("long_view", "engage")),
    study_tables.features(),
    study_tables.lengths((2, 4, 8, 16, 32)),
    study_tables.dimensions((4, 16, 64, 128)),
    study_tables.sasrec_losses(),
    study_tables.ranker(),
)
