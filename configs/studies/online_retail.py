"""The paper's tables on Online Retail II (data: see configs/online_retail.py).

    export ONLINE_RETAIL_II=DIR
    python -m pinnerformer_jax.ingest --config configs/online_retail.py
    python -m pinnerformer_jax.study --config configs/studies/online_retail.py --training.steps 100

Three seeds make 60 trainings. With 100 steps, half of the config's, they took 2.1 hours on one core of a
busy machine. Results: docs/studies.md.

The log has one kind of positive, no durations, and no impressions without engagement. So Table 5, the
ranker and some lines of Table 6 are left out.
"""

import dataclasses
from pathlib import Path

from pinnerformer_jax.config_files import load_config
from pinnerformer_jax.studies import study_tables

online_retail = load_config(Path(__file__).parents[1] / "online_retail.py")
config = dataclasses.replace(online_retail, name="Online Retail II")

tables = (
    study_tables.pinnersage(),
    study_tables.staleness(),
    study_tables.objectives(half_horizon=14),
    study_tables.negatives(),
    study_tables.features(
        (
            "All features",
            "No item vector",
            "No timestamp",
            "No surface",
            "No action",
            "No positional encoding",
        )
    ),
    study_tables.sasrec_losses(),
)
