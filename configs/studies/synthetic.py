"""Every table of the paper on the synthetic log, with the demo's model and data.

    python -m pinnerformer_jax.synthetic --out data/demo/raw
    python -m pinnerformer_jax.ingest --config configs/demo.py
    python -m pinnerformer_jax.study --config configs/studies/synthetic.py --training.steps 200

Three seeds make 105 trainings. With 200 steps, a third of the demo's, they took 2.4 hours on one core of a
busy machine. Results: docs/studies.md.
"""

import dataclasses
from pathlib import Path

from pinnerformer_jax.config_files import load_config
from pinnerformer_jax.studies import study_tables

demo = load_config(Path(__file__).parents[1] / "demo.py")
# The settings that the demo had when docs/studies.md was made, before a search found better ones.
config = dataclasses.replace(
    demo,
    name="The synthetic world",
    model=dataclasses.replace(demo.model, dropout=0.0),
    objective=dataclasses.replace(demo.objective, positions=16, initial_temperature=0.06),
    training=dataclasses.replace(demo.training, learning_rate=3e-3, weight_decay=0.01, checkpoint_every=200),
)

tables = (
    study_tables.pinnersage(),
    study_tables.staleness(),
    study_tables.objectives(half_horizon=14),
    study_tables.negatives(),
    study_tables.single_tasks(("repin", "closeup", "click")),
    study_tables.features(),
    study_tables.lengths((4, 8, 16, 32, 64)),
    study_tables.dimensions((4, 8, 16, 32, 64)),
    study_tables.sizes(((1, 32), (1, 64), (2, 128), (4, 128))),
    study_tables.sasrec_losses(),
    study_tables.ranker(),
)
