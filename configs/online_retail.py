"""Online Retail II (UCI): two years of a wholesaler's invoices, some 800,000 lines of 5,900 customers.

    export ONLINE_RETAIL_II=DIR
    python -m pinnerformer_jax.ingest --config configs/online_retail.py
    python train.py --config configs/online_retail.py --workdir runs/online_retail
    python evaluate.py --workdir runs/online_retail

DIR (default data/online_retail_ii) holds events.csv.gz: both sheets of the published workbook as one CSV
with the columns invoice, stock_code, description, quantity, invoice_date, price, customer_id, country. The
data are CC BY 4.0, doi.org/10.24432/C5CG6D. For another file: --data.events FILE.

Only products are events: codes that start with five digits. The others are postage, fees and manual
entries. A fifth of the lines names no customer; they are rejected, hence max_reject_share. Invoices
numbered C... are returns: events, but no positives. The lines of an invoice share its minute. Lines with
equal values in all mapped columns are duplicates, whatever their quantities.

Training takes three minutes on two quiet cores. Expected paper Recall@10: 0.189 +- 0.028 served, with the
priors; counting what the customer bought before has 0.177; the inner product alone 0.075 +- 0.017. On new
items 0.079 and 0.058; EASE has 0.073. One seed; docs/results.md has three, and the reasons.
"""

import os

from pinnerformer_jax.config import (
    ColumnsConfig,
    Config,
    DataConfig,
    ItemsConfig,
    ModelConfig,
    ObjectiveConfig,
    PinSageConfig,
    PositiveRule,
    TrainingConfig,
)

DATA = os.environ.get("ONLINE_RETAIL_II", "data/online_retail_ii")

config = Config(
    name="online_retail",
    data=DataConfig(
        events=(f"{DATA}/events.csv.gz",),
        prepared="data/online_retail_ii/prepared",
        columns=ColumnsConfig(
            user="customer_id",
            item="stock_code",
            time="invoice_date",
            action="CASE WHEN starts_with(invoice, 'C') THEN 'return' ELSE 'purchase' END",
            surface="country",
            title="trim(description)",
        ),
        where=r"regexp_matches(stock_code, '^\d{5}')",
        time_unit="timestamp",
        time_zone="Europe/London",
        positives=(PositiveRule(action="purchase"),),
        evaluation_days=14.0,
        evaluation_share=0.3,
        validation_share=0.05,
        max_reject_share=0.3,
    ),
    items=ItemsConfig(built_dim=256),
    model=ModelConfig(
        layers=2, width=256, heads=4, max_length=128, output_dim=256, item_hidden=512, dropout=0.3
    ),
    objective=ObjectiveConfig(
        positions=16,
        random_negatives=2048,
        in_batch_negatives=1024,
        initial_temperature=0.06,
        popularity_half_life_days=7.0,
    ),
    training=TrainingConfig(
        batch_size=64,
        steps=200,
        learning_rate=3e-4,
        weight_decay=0.1,
        log_every=50,
        checkpoint_every=100,
    ),
    # For `items --method pinsage_svd`; chosen on earlier splits of this log, see docs/items.md.
    pinsage=PinSageConfig(whitening=1.0),
)
