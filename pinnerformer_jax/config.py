"""Every setting of an experiment, typed and frozen; the only home of defaults.

A file in configs/ builds one `Config` named `config`; the command line overrides single
fields (`--training.batch-size 512`); the run saves what it used beside its checkpoints.
Each class checks itself when built, and its errors name the field and the cure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

Feature = Literal["item", "action", "surface", "duration", "absolute_time", "relative_time", "position"]
ObjectiveName = Literal["dense_all_action", "all_action", "next_action", "sasrec", "sasrec_plain"]
LossName = Literal["sampled_softmax", "binary_cross_entropy"]
PinSageLoss = Literal["sampled_softmax", "max_margin"]
PoolName = Literal["merged", "separate"]
Attention = Literal["auto", "cudnn", "xla", "blocks"]
ItemDtype = Literal["float16", "int8"]


def _require(ok: bool, field_name: str, value: Any, wanted: str) -> None:
    if not ok:
        raise ValueError(f"{field_name} = {value!r}: {wanted}")


def _require_types(config: Any, prefix: str) -> None:
    """Every field is of its kind; a file in configs/ may set anything."""
    kinds = get_type_hints(type(config))
    for name in (f.name for f in fields(config)):
        kind, value, setting = kinds[name], getattr(config, name), f"{prefix}.{name}"
        if get_origin(kind) is Literal:
            _require(value in get_args(kind), setting, value, f"must be one of {get_args(kind)}")
        elif get_origin(kind) is tuple:
            _require(isinstance(value, tuple), setting, value, "must be a tuple")
        elif kind is int:
            _require(isinstance(value, int), setting, value, "must be a whole number")
        elif kind is float:
            finite = isinstance(value, int | float) and math.isfinite(value)
            _require(finite, setting, value, "must be a finite number")


@dataclass(frozen=True)
class ColumnsConfig:
    """Where each fact stands in the event log. Each value is a column's name or any DuckDB SQL
    expression over the columns, such as `CASE WHEN is_like = 1 THEN 'like' ELSE 'view' END`. In CSV every
    column is text: ids keep their leading zeros, and numbers need a cast, `try_cast(stars AS INT) > 3`."""

    user: str = "user"
    """Who: any type; comes out of the system as it went in."""
    item: str = "item"
    """With what: any type."""
    time: str = "time"
    """When: a number (see --data.time-unit), a timestamp, or a text that reads as one."""
    action: str = ""
    """Kind of action, as text; empty: every event is an 'event'."""
    surface: str = ""
    """Where in the product, as text; empty: unknown."""
    duration: str = ""
    """How long, in seconds; empty: 0."""
    title: str = ""
    """Item text, if it stands in the log; the first of the training period is kept."""
    topic: str = ""
    """Item topic, if it stands in the log."""


@dataclass(frozen=True)
class PositiveRule:
    """One kind of positive engagement; an event that meets any rule is a positive. The paper's are
    repin, closeup of 10 s or more and click of 10 s or more, each on Homefeed."""

    action: str = ""
    """Action it must be; empty: any."""
    min_duration: float = 0.0
    """Seconds it must have lasted."""
    surface: str = ""
    """Surface it must be on; empty: any."""

    def __post_init__(self) -> None:
        _require_types(self, "data.positives")
        _require(self.min_duration >= 0, "data.positives.min_duration", self.min_duration, "must be >= 0 s")


@dataclass(frozen=True)
class DataConfig:
    """From the event log to timelines."""

    events: tuple[str, ...] = ()
    """Parquet or CSV files (plain or .gz), or globs of them; or `tfds:NAME` / `tfds:NAME:SPLIT`."""
    prepared: str = ""
    """Folder of the prepared timelines and catalogue: ingest writes it, all else reads it."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    where: str = ""
    """SQL condition on the log; rows that do not meet it are out of scope (counted, not rejected)."""
    time_unit: Literal["s", "ms", "us", "ns", "timestamp"] = "s"
    """Unit of a numeric time since 1970-01-01 UTC; `timestamp` for timestamps and texts."""
    time_zone: str = "UTC"
    """Zone assumed for timestamps that carry none."""
    time_min: str = "1990-01-01"
    """Earlier times are rejected (UTC)."""
    time_max: str = "2060-01-01"
    """Later times are rejected (UTC)."""
    positives: tuple[PositiveRule, ...] = (PositiveRule(),)
    """What counts as positive engagement: an event that meets any of these."""
    sequence_actions: tuple[str, ...] = ()
    """Actions that enter the timelines; empty: all. The others are dropped and counted."""
    min_user_events: int = 2
    """Users with fewer events up to the split are left out (counted)."""
    split_time: str = ""
    """t, the end of training, ISO, UTC; empty: evaluation_days before the last event."""
    evaluation_days: float = 14.0
    """Targets of the evaluation lie in (t, t + this many days]."""
    evaluation_share: float = 0.1
    """Share of users, by a stable hash of the id, that never train and are evaluated on."""
    validation_share: float = 0.02
    """Share of users kept from training to choose the best checkpoint; they see nothing after t."""
    max_reject_share: float = 0.05
    """Stop if more than this share of the rows in scope is bad."""
    shards: int = 4
    """Files the timelines are split into, by user hash."""
    memory_limit: str = "2GB"
    """Memory the ingest engine may use before it spills to disk, beside the prepared folder."""

    def __post_init__(self) -> None:
        _require_types(self, "data")
        for rule in self.positives:
            _require(
                not self.sequence_actions or rule.action in ("", *self.sequence_actions),
                "data.positives", rule.action, "is not in data.sequence_actions, so never in a timeline",
            )  # fmt: skip
        for name in ("evaluation_share", "validation_share", "max_reject_share"):
            _require(
                0.0 <= getattr(self, name) <= 1.0, f"data.{name}", getattr(self, name), "a share in [0, 1]"
            )
        held_out = self.evaluation_share + self.validation_share
        _require(
            held_out < 1.0,
            "data.evaluation_share + data.validation_share",
            held_out,
            "no user is left to train",
        )
        _require(self.evaluation_days > 0, "data.evaluation_days", self.evaluation_days, "must be > 0 days")
        _require(self.min_user_events >= 1, "data.min_user_events", self.min_user_events, "must be >= 1")
        _require(self.shards >= 1, "data.shards", self.shards, "must be >= 1")
        _require(len(self.positives) > 0, "data.positives", self.positives, "needs at least one rule")


@dataclass(frozen=True)
class ItemsConfig:
    """Item vectors, titles and topics. Given vectors win; without them they are built from the
    training period: PPMI + SVD of co-occurrence, and TF-IDF + SVD of the text."""

    table: str = ""
    """Item table (Parquet or CSV), one row an item; empty: items are those of the log."""
    id: str = "item"
    """Its item id column (or SQL expression), of the same kind as in the log."""
    vector: str = ""
    """Its column of given vectors (a list of numbers); empty: vectors are built."""
    title: str = ""
    """Its title column or SQL expression, for people and for the text vector."""
    topic: str = ""
    """Its topic column, for interest entropy; empty: topics are k-means clusters of the vectors."""
    text: tuple[str, ...] = ()
    """Further text or category columns that feed the text vector."""
    built_dim: int = 128
    """Numbers per built vector: half co-occurrence, half text if there is text."""

    def __post_init__(self) -> None:
        _require_types(self, "items")
        _require(self.built_dim >= 2, "items.built_dim", self.built_dim, "must be >= 2")
        columns = (self.vector, self.title, self.topic, *self.text)
        _require(
            bool(self.table) or not any(columns),
            "items.table",
            self.table,
            "name the table these columns are in",
        )


@dataclass(frozen=True)
class ModelConfig:
    """The towers. Defaults are the paper's final model."""

    layers: int = 6
    """L, Transformer blocks."""
    width: int = 768
    """H, hidden width."""
    heads: int = 8
    """Attention heads; must divide the width."""
    max_length: int = 256
    """M (T in shapes), the most recent actions that are read."""
    output_dim: int = 256
    """D, numbers of a user or item embedding."""
    action_dim: int = 32
    """Width of the action-type embedding."""
    surface_dim: int = 32
    """Width of the surface embedding."""
    item_hidden: int = 768
    """Hidden width of the item tower."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of matmuls and activations; parameters, norms, softmax and loss stay float32. An accelerator multiplies
    float32 numbers, the loss's logits too, by its default: TF32 on a recent GPU, bfloat16 on a TPU."""
    attention: Attention = "auto"
    """How the blocks but the last compute attention: cudnn (a GPU's fused kernel, bfloat16), xla (jax's own
    products and softmax over the whole square) or blocks (ours, half of the square, see model/attention.py).
    auto: cudnn where there is one, else blocks. If the compiler refuses one, the run says so and takes the
    next of cudnn, xla, blocks."""
    dropout: float = 0.0
    """Share dropped of the Transformer's input and of each sublayer's output, in training. The paper names
    none; logs of few users need some."""
    aligned_start: bool = True
    """Aligned initialisation (model/initialisation.py): an item's embedding starts as its vector and a user's
    as the mean of its items'. False: at random. Aligned is better where likeness to what a user had predicts
    what comes. Where popularity does, as in configs/kuairand.py, it overfits sooner."""
    drop_features: tuple[Feature, ...] = ()
    """Sources left out of the user tower's input, with their part of the kernel (paper, Table 6, whose
    "timestamp" is both times). The item tower keeps its item vectors."""
    strictly_causal: bool = False
    """The paper's `time since the latest action` and positions counted from the newest action let the
    END of the window (when it is, never what it is) reach earlier positions. True: neither does."""

    def __post_init__(self) -> None:
        _require_types(self, "model")
        known, dropped = set(get_args(Feature)), self.drop_features
        _require(
            set(dropped) <= known and bool(known - {"position", *dropped}),
            "model.drop_features", dropped, f"a tuple of {sorted(known)}; one besides position must stay",
        )  # fmt: skip
        _require(0 <= self.dropout < 1, "model.dropout", self.dropout, "a share in [0, 1)")
        for name in (
            "layers",
            "width",
            "heads",
            "max_length",
            "output_dim",
            "action_dim",
            "surface_dim",
            "item_hidden",
        ):
            _require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "must be >= 1")
        _require(
            self.width % self.heads == 0,
            "model.width",
            self.width,
            f"must be a multiple of heads = {self.heads}",
        )


@dataclass(frozen=True)
class ObjectiveConfig:
    """Dense all action (paper, section on objectives), mixed negatives, sampled softmax with logQ."""

    name: ObjectiveName = "dense_all_action"
    """Which pairs are trained, see objective/targets.py. In `sasrec` the newest position weighs as much as
    all others together, in `sasrec_plain` as much as any other."""
    loss: LossName = "sampled_softmax"
    """Binary cross-entropy is SASRec's first loss: one random negative a pair, no pool and no logQ."""
    target_actions: tuple[str, ...] = ()
    """Actions whose positives are trained on; empty: all. Evaluation keeps all of them."""
    horizon_days: float = 28.0
    """K: a position's positives lie in the K days after it."""
    positions: int = 32
    """P, positions a user that dense all action trains on each step (the newest is always one), and
    positives a user in all action."""
    random_negatives: int = 8192
    """Uniformly random items in the pool; 0: in-batch negatives alone."""
    in_batch_negatives: int = 5000
    """At most this many of the batch's positives, over all devices, in the pool; 0: random ones alone."""
    pool: PoolName = "merged"
    """merged: one softmax over both kinds of negatives; separate: one over each, the losses summed."""
    logq: bool = True
    """Subtract log Q, the expected number of times an item stands in the pool."""
    refined_logq: bool = False
    """Subtract it from the negatives only, as the positive is there with certainty (arXiv 2507.09331)."""
    initial_temperature: float = 0.1
    """tau at the start; it is learned."""
    min_temperature: float = 0.01
    """tau never goes below."""
    sketch_width: int = 1 << 18
    """Counters a row of the count-min sketch; a power of two."""
    sketch_depth: int = 4
    """Rows of the sketch, each with its own hash."""
    sketch_decay: float = 0.9999
    """Share of the counts kept each step, so that the frequencies follow the data and cannot overflow."""

    def __post_init__(self) -> None:
        _require_types(self, "objective")
        _require(
            1 <= self.horizon_days * 86_400 < 2**31,
            "objective.horizon_days", self.horizon_days, "a second at least, at most 24,855 days",
        )  # fmt: skip
        _require(self.positions >= 1, "objective.positions", self.positions, "must be >= 1")
        _require(
            self.logq or not self.refined_logq, "objective.refined_logq", True, "needs objective.logq = True"
        )
        _require(
            self.pool == "merged" or min(self.random_negatives, self.in_batch_negatives) > 0,
            "objective.pool", self.pool, "needs both random_negatives and in_batch_negatives > 0",
        )  # fmt: skip
        pool = self.random_negatives + self.in_batch_negatives
        _require(
            min(self.random_negatives, self.in_batch_negatives) >= 0 and pool > 0,
            "objective.random_negatives + in_batch_negatives", pool, "need at least one negative, none < 0",
        )  # fmt: skip
        width = self.sketch_width
        _require(
            width >= 2 and width & (width - 1) == 0, "objective.sketch_width", width, "must be a power of two"
        )
        _require(1 <= self.sketch_depth <= 8, "objective.sketch_depth", self.sketch_depth, "must be in 1..8")
        _require(0 < self.sketch_decay <= 1, "objective.sketch_decay", self.sketch_decay, "must be in (0, 1]")
        _require(
            self.initial_temperature > self.min_temperature > 0,
            "objective.initial_temperature", self.initial_temperature, "must exceed min_temperature > 0",
        )  # fmt: skip

    @property
    def next_positive(self) -> bool:
        """Targets are next positives: the first events after a window must be shipped, not a sample."""
        return self.name in ("next_action", "sasrec", "sasrec_plain")

    @property
    def horizon(self) -> int:
        """`horizon_days` in seconds."""
        return round(self.horizon_days * 86_400)


@dataclass(frozen=True)
class TrainingConfig:
    """The loop: AdamW, warm-up then cosine, checkpoints."""

    batch_size: int = 512
    """Users a step, over all devices."""
    steps: int = 10_000
    """Steps of the whole run."""
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    warmup_share: float = 0.05
    """Share of the steps that warm up; then cosine to zero."""
    weight_decay: float = 0.01
    """On matrices and tables; not on biases, norms, phases and the temperature."""
    clip_norm: float = 1.0
    """Global norm that gradients are clipped to."""
    seed: int = 0
    """Of everything random: parameters, batches, sampling."""
    future_events: int = 256
    """F: events after a window that are shipped as candidates for its targets; of more than F within
    the horizon, a uniformly random F (and the sampling weighs them so that nothing is biased)."""
    log_every: int = 50
    """Steps between lines of metrics."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the validation loss that chooses the best is taken then."""
    validation_batches: int = 8
    """Batches of validation users a validation loss is averaged over."""
    length_parts: int = 4
    """Equal parts that a batch, sorted by length, is cut into, each computed only as long as its longest
    user needs; 1: everybody pays for the longest. Loss and gradient are the same but for dropout, which
    draws other numbers. Used where it saves a fifth of the positions or more."""
    input_workers: int = 0
    """Processes that prepare batches; 0: threads of this process."""
    shard_items: bool = False
    """Split the catalogue's vectors over the devices by rows, for one that does not fit on each; the numbers
    stay the same, the step tells more. Of training alone: to embed, one device must hold them whole."""
    deterministic: bool = False
    """On a GPU, have XLA compile operations that give the same bits each time (xla_gpu_deterministic_ops), so
    that a resumed run equals an unbroken one there too. Not tried on a GPU yet; a CPU is exact without it."""
    item_dtype: ItemDtype = "float16"
    """How the catalogue's vectors are held on the devices: float16, or int8 with a scale a row."""

    def __post_init__(self) -> None:
        _require_types(self, "training")
        for name in (
            "batch_size",
            "steps",
            "log_every",
            "checkpoint_every",
            "validation_batches",
            "future_events",
            "length_parts",
        ):
            _require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "must be >= 1")
        _require(0 <= self.warmup_share < 1, "training.warmup_share", self.warmup_share, "must be in [0, 1)")
        _require(self.learning_rate > 0, "training.learning_rate", self.learning_rate, "must be > 0")
        _require(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "must be >= 0")
        _require(self.clip_norm > 0, "training.clip_norm", self.clip_norm, "must be > 0")
        _require(self.input_workers >= 0, "training.input_workers", self.input_workers, "must be >= 0")
        _require(0 <= self.seed < 2**32, "training.seed", self.seed, "must be in 0..2^32 - 1")


@dataclass(frozen=True)
class EmbeddingConfig:
    """Vectors of users from a trained model, in the evaluation and in the daily job."""

    batch_size: int = 256
    """Users embedded at a time."""

    def __post_init__(self) -> None:
        _require_types(self, "embedding")
        _require(self.batch_size >= 1, "embedding.batch_size", self.batch_size, "must be >= 1")


@dataclass(frozen=True)
class IndexConfig:
    """The served index of items, by ScaNN."""

    leaves: int = 0
    """Partitions; 0: about sqrt(items), and brute force below 20,000 items."""
    leaves_searched: int = 0
    """Partitions a query looks into; 0: a tenth, at least ten."""
    reorder: int = 200
    """Candidates re-scored exactly; at least four times the neighbours wanted, or recall falls."""

    def __post_init__(self) -> None:
        _require_types(self, "index")
        for name in ("leaves", "leaves_searched"):
            _require(getattr(self, name) >= 0, f"index.{name}", getattr(self, name), "must be >= 0")
        _require(self.reorder >= 1, "index.reorder", self.reorder, "must be >= 1")


@dataclass(frozen=True)
class EvaluationConfig:
    """Unseen users, embedded as of t, against what they did in the days after it."""

    index_size: int = 1_000_000
    """Random items in the index of the paper's Recall@10; the whole catalogue if it is smaller."""
    cutoffs: tuple[int, ...] = (10, 50)
    """k of Recall@k, NDCG@k and HitRate@k over the full catalogue."""
    filter_seen: bool = False
    """Protocol `full`: take items the user has touched out of the candidates (`new_items` always does)."""
    batch_size: int = 256
    """Users scored at a time."""
    topics: int = 350
    """Topics of interest entropy, where none are given: k-means clusters of the item vectors."""
    max_users: int = 0
    """Evaluate on a random sample of so many users; 0: all."""
    seed: int = 0
    """Of the index sample, the user sample and k-means."""

    def __post_init__(self) -> None:
        _require_types(self, "evaluation")
        _require(
            all(k >= 1 for k in self.cutoffs) and self.cutoffs != (),
            "evaluation.cutoffs",
            self.cutoffs,
            "needs k >= 1",
        )
        for name in ("index_size", "batch_size", "topics"):
            _require(getattr(self, name) >= 1, f"evaluation.{name}", getattr(self, name), "must be >= 1")
        _require(self.max_users >= 0, "evaluation.max_users", self.max_users, "must be >= 0")


@dataclass(frozen=True)
class PinSageConfig:
    """Item vectors by PinSage (Ying et al., KDD 2018). The sizes are our choice; the paper's are for a graph
    of three billion items."""

    walkers: int = 100
    """Random walks that start at an item."""
    hops: int = 5
    """Moves (item, one of its users, one of that user's items) of each."""
    restart: float = 0.5
    """Chance before each further move to go back to the start."""
    neighbours: int = 20
    """T: most visited items that are pooled; the paper's is 50."""
    session_hours: float = 0.0
    """A second kind of node beside users: sessions, which a pause of more hours than this ends (visits,
    orders), linked to their items. 0: users alone."""
    numbers: tuple[str, ...] = ()
    """Numeric columns or SQL expressions of items.table that are content too. They are standardised; of what
    has a long tail take `ln(1 + price)`. A count that goes on after t would be a leak."""
    width: int = 256
    """Numbers of the hidden layers; vectors have items.built_dim."""
    reach: int = 256
    """Items that are co-engaged: 1, 2, 4, ... positives apart in a user's timeline, at most so many ..."""
    window_days: float = 28.0
    """... and at most so many days. Short windows find the very next item better, and make worse vectors for
    a model of users."""
    batch_size: int = 512
    """Pairs a step; their second items are negatives of each other."""
    random_negatives: int = 1024
    """Negatives a step that are uniform over the items of the training period."""
    loss: PinSageLoss = "sampled_softmax"
    """With logQ, as in the towers; or the paper's max_margin, with hard negatives."""
    temperature: float = 0.07
    """tau of the sampled softmax."""
    margin: float = 0.2
    """Of the max-margin, between cosines."""
    hard_negatives: int = 4
    """A pair's own negatives under max-margin, drawn from what the query's walks visit less often than its
    neighbours. None at the start of the training, all at its end (the paper's curriculum)."""
    hard_ranks: int = 100
    """Ranks by visits behind the neighbours that they are drawn from."""
    whitening: float = 0.0
    """How far the vectors' principal axes are made equally wide: 0 not at all, 1 wholly. It helped where
    histories are long and items come again, and hurt elsewhere: docs/items.md. Our choice."""
    isolated_share: float = 0.3
    """Share of items whose edges are hidden in a step, so that content alone must do, as it must for new
    items. Our choice."""
    steps: int = 1000
    """Steps of the training."""
    learning_rate: float = 1e-3
    """Peak; warmed up, then cosine to zero."""
    seed: int = 0
    """Of walks, parameters and batches."""

    def __post_init__(self) -> None:
        _require_types(self, "pinsage")
        for name in ("walkers", "hops", "neighbours", "width", "reach", "hard_ranks", "batch_size", "steps"):
            _require(getattr(self, name) >= 1, f"pinsage.{name}", getattr(self, name), "must be >= 1")
        for name in ("restart", "isolated_share"):
            _require(
                0 <= getattr(self, name) < 1, f"pinsage.{name}", getattr(self, name), "must be in [0, 1)"
            )
        _require(0 <= self.whitening <= 1, "pinsage.whitening", self.whitening, "must be in [0, 1]")
        for name in ("window_days", "temperature", "margin", "learning_rate"):
            _require(getattr(self, name) > 0, f"pinsage.{name}", getattr(self, name), "must be > 0")
        for name in ("random_negatives", "hard_negatives", "session_hours"):
            _require(getattr(self, name) >= 0, f"pinsage.{name}", getattr(self, name), "must be >= 0")


@dataclass(frozen=True)
class Config:
    """One experiment: every setting, by section. Files in configs/ build one each."""

    name: str = "pinnerformer"
    """For people: shown in logs and reports."""
    data: DataConfig = field(default_factory=DataConfig)
    items: ItemsConfig = field(default_factory=ItemsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    pinsage: PinSageConfig = field(default_factory=PinSageConfig)
