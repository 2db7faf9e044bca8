"""Settings of the objective and of the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pinnerformer_jax.config.checks import require, require_at_most, require_types

ObjectiveName = Literal["dense_all_action", "all_action", "next_action", "sasrec", "sasrec_plain"]
LossName = Literal["sampled_softmax", "binary_cross_entropy"]
PoolName = Literal["merged", "separate"]
ItemDtype = Literal["float16", "int8"]


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
    """Subtract log Q, the expected number of times an item is in the pool."""
    refined_logq: bool = False
    """Subtract it from the negatives only, as the positive is there with certainty (arXiv 2507.09331)."""
    popularity_half_life_days: float = 0.0
    """Adds to the logits how popular each item was at the pair's time, by counts with this half-life
    (data/popularity.py), as priors add it to the served score. So the vectors learn what popularity does not
    tell: better for what is served where popularity changes, worse for the vectors alone. 0: nothing, as in
    the paper."""
    new_item_share: float = 0.1
    """Share of the items that a step takes for new ones: their vector is the one that their text alone gives
    (data/text_map.py), so that the scores of items that come later are learned too. It acts where ingest
    built the vectors and text tells of co-occurrence. 0: none."""
    initial_temperature: float = 0.1
    """tau at the start; it is learned."""
    min_temperature: float = 0.01
    """tau never goes below."""
    exact_counts: int = 1 << 26
    """Positives are counted exactly up to so many items, 4 bytes each on every device; of more items by a
    count-min sketch, as in the paper. 0: always by the sketch."""
    sketch_width: int = 0
    """Counters a row of the sketch, a power of two; 0: about a sixteenth of the items, at least 2^18."""
    sketch_depth: int = 4
    """Rows of the sketch, each with its own hash."""
    sketch_decay: float = 0.9999
    """Share of the counts kept each step, so that the frequencies follow the data and cannot overflow."""

    def __post_init__(self) -> None:
        require_types(self, "objective")
        require(
            1 <= self.horizon_days * 86_400 < 2**31,
            "objective.horizon_days", self.horizon_days, "a second at least, at most 24,855 days",
        )  # fmt: skip
        require(
            0 <= self.new_item_share < 1,
            "objective.new_item_share", self.new_item_share, "a share in [0, 1)",
        )  # fmt: skip
        half_life = self.popularity_half_life_days
        require(
            half_life == 0 or 1 / 24 <= half_life <= 36_500,
            "objective.popularity_half_life_days", half_life, "an hour to 36,500 days, or 0",
        )  # fmt: skip
        require(
            half_life == 0 or self.loss == "sampled_softmax",
            "objective.popularity_half_life_days", half_life, "needs objective.loss = sampled_softmax",
        )  # fmt: skip
        require(self.positions >= 1, "objective.positions", self.positions, "must be >= 1")
        most = 2**24
        require_at_most(
            self, "objective", positions=65_536, random_negatives=most, in_batch_negatives=most,
            sketch_width=2**28, exact_counts=2**31,
        )  # fmt: skip
        require(
            self.logq or not self.refined_logq, "objective.refined_logq", True, "needs objective.logq = True"
        )
        require(
            self.pool == "merged" or min(self.random_negatives, self.in_batch_negatives) > 0,
            "objective.pool", self.pool, "needs both random_negatives and in_batch_negatives > 0",
        )  # fmt: skip
        pool = self.random_negatives + self.in_batch_negatives
        require(
            min(self.random_negatives, self.in_batch_negatives) >= 0 and pool > 0,
            "objective.random_negatives + in_batch_negatives", pool, "need at least one negative, none < 0",
        )  # fmt: skip
        require(self.exact_counts >= 0, "objective.exact_counts", self.exact_counts, "must be >= 0")
        width = self.sketch_width
        require(
            width == 0 or (width >= 2 and width & (width - 1) == 0),
            "objective.sketch_width", width, "must be a power of two, or 0",
        )  # fmt: skip
        require(1 <= self.sketch_depth <= 8, "objective.sketch_depth", self.sketch_depth, "must be in 1..8")
        require(0 < self.sketch_decay <= 1, "objective.sketch_decay", self.sketch_decay, "must be in (0, 1]")
        require(
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
    stop_after: int = 0
    """Training ends after so many steps, although warm-up and cosine are those of `steps`; 0: after all.
    `train --final` sets it to the step of the best checkpoint."""
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
    the horizon, every n-th from a random start, so that each is equally likely; sampling corrects for it."""
    log_every: int = 50
    """Steps between lines of metrics."""
    checkpoint_every: int = 500
    """Steps between checkpoints; what chooses the best is measured then: the discounted gain of what is
    served to validation users at earlier splits, or, if they are too few, their loss."""
    patience: int = 5
    """Training ends early when so many checkpoints were no better than the best; 0: never."""
    validation_batches: int = 8
    """Batches of validation users a validation loss is averaged over."""
    length_parts: int = 4
    """Equal parts that a batch, sorted by length, is cut into, each computed only as long as its longest
    user needs; 1: everybody pays for the longest. Loss and gradient are the same but for dropout, which
    draws other numbers. Used where it saves a fifth of the positions or more."""
    input_workers: int = 0
    """Processes that prepare batches; 0: threads of this process."""
    shard_items: bool = False
    """Shard the catalogue's vectors over the devices by rows, for a catalogue that does not fit on one. The
    results are the same, but the devices communicate more. To embed, the devices of one process hold them."""
    deterministic: bool = False
    """On a GPU, have XLA compile operations that give the same bits each time (xla_gpu_deterministic_ops), so
    that a resumed run equals an unbroken one there too. It needs model.attention blocks or xla; on an H200 a
    step of the paper's size then takes 1.33 times as long. A CPU is exact without it."""
    wandb: str = ""
    """Project of W&B that the figures of metrics.jsonl also go to; empty: none. See training/trackers.py."""
    mlflow: str = ""
    """Experiment of MLflow, likewise."""
    item_dtype: ItemDtype = "float16"
    """How the catalogue's vectors are held on the devices: float16, or int8 with a scale a row."""

    def __post_init__(self) -> None:
        require_types(self, "training")
        for name in (
            "batch_size",
            "steps",
            "log_every",
            "checkpoint_every",
            "validation_batches",
            "future_events",
            "length_parts",
        ):
            require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "must be >= 1")
        require_at_most(
            self, "training", batch_size=2**24, steps=10**9, log_every=10**9, checkpoint_every=10**9,
            validation_batches=10**6, future_events=65_536, length_parts=1_024, patience=10**9,
            input_workers=1_024,
        )  # fmt: skip
        require(0 <= self.warmup_share < 1, "training.warmup_share", self.warmup_share, "must be in [0, 1)")
        require(self.learning_rate > 0, "training.learning_rate", self.learning_rate, "must be > 0")
        require(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "must be >= 0")
        require(self.clip_norm > 0, "training.clip_norm", self.clip_norm, "must be > 0")
        require(
            0 <= self.stop_after <= self.steps,
            "training.stop_after", self.stop_after, f"must be in [0, training.steps = {self.steps}]",
        )  # fmt: skip
        require(self.patience >= 0, "training.patience", self.patience, "must be >= 0")
        require(self.input_workers >= 0, "training.input_workers", self.input_workers, "must be >= 0")
        require(0 <= self.seed < 2**32, "training.seed", self.seed, "must be in 0..2^32 - 1")

    @property
    def last_step(self) -> int:
        """The steps after which training ends."""
        return self.stop_after or self.steps
