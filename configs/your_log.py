"""A log of your own. Copy this file, name the columns of your log, and run:

    python -m pinnerformer_jax.ingest --config configs/yours.py
    python train.py --config configs/yours.py --workdir runs/yours
    python evaluate.py --workdir runs/yours

The sizes of the model and of the training, and the shares of users that are evaluated, follow from the log.
Training prints them. A setting that you give here or on the command line stays as you give it.
docs/your-log.md explains the settings; pinnerformer_jax/config/ has all of them.
"""

from pinnerformer_jax.config import ColumnsConfig, Config, DataConfig, ItemsConfig, PositiveRule

config = Config(
    name="your_log",
    sizes_by_log=True,
    data=DataConfig(
        events=("data/yours/events.csv",),  # CSV or Parquet, one row an event; several files, or a pattern
        prepared="data/yours/prepared",  # the folder that ingest writes
        columns=ColumnsConfig(
            user="user",
            item="item",
            time="time",
            action="",  # such as "action", where the log has several
            surface="",
            duration="",
        ),
        time_unit="timestamp",  # or s, ms, us, ns since 1970
        positives=(PositiveRule(),),  # every event; else such as PositiveRule(action="purchase")
    ),
    # Without a table, items are those of the log, and their vectors are built from what occurs together.
    # With one: items=ItemsConfig(table="data/yours/items.csv", id="item", title="title", topic="category")
    items=ItemsConfig(),
)
