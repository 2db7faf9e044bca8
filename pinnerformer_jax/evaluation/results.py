"""The results of an evaluation as records, and their form in results.json."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import jax

from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import digest, to_dict
from pinnerformer_jax.retrieval.priors import Priors

DEFINITIONS = {
    "tie_rule": "an item that scores the same as a target ranks before it",
    "paper recall@10": "share of (user, target) pairs with fewer than 10 index items, the user's other "
    "targets aside, that score at least as high; targets not in the random index are placed into it",
    "paper interest_entropy@50": "entropy in nats of the topics of a user's 50 nearest index items, mean",
    "paper p90_coverage@10": "smallest share of the index that makes up 90 % of all users' top 10",
    "by_action recall@10": "as paper recall@10, of the pairs that a positive of that action made",
    "full": "all items with a vector compete, a user's targets with each other too; mean over users of "
    "hits / targets (recall), NDCG with an ideal of min(k, targets) hits, any hit (hit_rate)",
    "new_items": "as full, with every item the user had touched up to t taken out of candidates and targets",
    "low, high": "95 % bootstrap interval over users",
    "differences": "recall@10 of the method less the other's, paired by user",
    "pinnerformer": "the inner product of the user's and the item's vector",
    "served": "the inner product, the user's own items and recent popularity, see priors",
    "vectors": "the inner product of vectors that hold the priors, as the verb vectors writes them",
}


@dataclass(frozen=True)
class MetricRow:
    """One metric of one method."""

    method: str
    protocol: str  # "paper", "by_action", "full" or "new_items"
    metric: str
    value: float
    n_users: int  # users that the metric is over
    low: float | None = None  # 95 % bootstrap interval over users; None: there is none
    high: float | None = None

    def is_metric(self, protocol: str, metric: str) -> bool:
        """Whether the row is of this metric under this protocol."""
        return (self.protocol, self.metric) == (protocol, metric)

    def to_json(self) -> dict[str, Any]:
        """As in results.json: without "low" and "high" where there is no interval."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class LengthRow:
    """The paper's Recall@10 of one method over users with histories of similar length."""

    method: str
    events: str  # the bucket: "5-9", "256+"
    recall: float
    n_users: int
    n_pairs: int

    def to_json(self) -> dict[str, Any]:
        """As in results.json."""
        return {
            "method": self.method, "events": self.events, "recall@10": self.recall,
            "n_users": self.n_users, "n_pairs": self.n_pairs,
        }  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """Recall@10 of one method less another's, paired by user."""

    method: str
    other: str
    protocol: str  # "full" or "new_items"
    value: float
    low: float  # 95 % bootstrap interval over users
    high: float


@dataclass(frozen=True)
class MethodResults:
    """Metrics of every method on the same users, targets and candidates."""

    rows: list[MetricRow]
    history_length: list[LengthRow]
    coverage_curve: dict[str, list[list[float]]]  # by method: [share of items, share of results]
    differences: list[Difference] = field(default_factory=list)  # of what is served from all others


@dataclass(frozen=True)
class ProtocolSummary:
    """The sizes of a protocol."""

    t: str  # end of training, ISO
    window_end: str  # ISO
    window_days: float
    users: int  # that are evaluated
    eligible_users: int  # more than `users` if a sample is evaluated
    users_without_history: int
    users_without_target: int
    pairs: int  # (user, target item)
    new_pairs: int  # of these, items that the user had not touched up to t
    unreachable_pairs: int  # left out: the item has no vector
    items: int
    reachable_items: int
    index_size: int


@dataclass(frozen=True)
class ScannResult:
    """ScaNN beside exact search on the same queries."""

    k: int
    items: int
    recall: float  # share of the k exact nearest items that ScaNN finds
    exact_qps: float  # queries/s
    scann_qps: float
    device: str  # of exact search
    leaves: int  # 0: brute force
    leaves_searched: int
    reorder: int
    soar: bool
    parts: int = 1


@dataclass(frozen=True)
class RulesResult:
    """Lists of what is served, without rules of a shop and within them, over the full catalogue."""

    k: int  # items of a list
    items: int  # with a vector
    forbidden_items: int  # of these
    forbidden_targets: float  # share of the targets; they count as missed within the rules
    at_most: int | None  # items of a category in a list; None: no cap
    recall: float  # recall@k without rules
    recall_within: float
    difference_low: float  # of recall_within - recall, 95 % bootstrap interval over users
    difference_high: float
    shown_forbidden: float  # share of the recommendations without rules
    users_shown_forbidden: float  # share of the users who would be shown at least one
    users_beyond_cap: float  # share of the users whose list without rules the cap would cut


@dataclass(frozen=True)
class NotMeasured:
    """A measurement that failed."""

    error: str


@dataclass(frozen=True)
class Provenance:
    """What was evaluated, when, and by what."""

    date: str  # UTC, ISO
    version: str  # of this package
    checkpoint: Literal["best", "last"]
    chosen_by: Literal["gain", "recall", "loss"]  # what makes a checkpoint of this run the best
    step: int  # of the checkpoint: training steps done
    data: str  # digest of the prepared folder
    config_digest: str
    jax: str  # version
    devices: list[str]

    @classmethod
    def now(
        cls,
        package: str,
        checkpoint: Literal["best", "last"],
        chosen_by: Literal["gain", "recall", "loss"],
        step: int,
        data: str,
        config: Config,
    ) -> Provenance:
        """Of an evaluation in this process."""
        return cls(
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            version=package,
            checkpoint=checkpoint,
            chosen_by=chosen_by,
            step=step,
            data=data,
            config_digest=digest(config),
            jax=jax.__version__,
            devices=[device.device_kind for device in jax.devices()],
        )


@dataclass(frozen=True)
class Results:
    """All that an evaluation measures."""

    provenance: Provenance
    methods: MethodResults
    protocol: ProtocolSummary
    topics: str  # where they come from
    scann: ScannResult | NotMeasured
    config: Config
    verdict: list[str] = field(default_factory=list)  # sentences: who leads, and what to do
    priors: Priors = field(default_factory=Priors)  # of the method "served"
    priors_fit: str = ""  # how they were fitted, in words
    constants: dict[str, float] = field(default_factory=dict)  # of the baselines, as chosen
    staleness: dict[str, float] | None = None  # Recall@10 by schedule; None: not asked for
    rules: RulesResult | None = None  # None: no rules were given

    def to_json(self) -> dict[str, Any]:
        """As in results.json, plain JSON types."""
        values = {
            "verdict": self.verdict,
            **asdict(self.provenance),
            "rows": [row.to_json() for row in self.methods.rows],
            "history_length": [row.to_json() for row in self.methods.history_length],
            "coverage_curve": self.methods.coverage_curve,
            "differences": [asdict(difference) for difference in self.methods.differences],
            "priors": {**asdict(self.priors), "fit": self.priors_fit},
            "baselines": self.constants,
            "protocol": {
                **asdict(self.protocol),
                "filter_seen": self.config.evaluation.filter_seen,
                "definitions": DEFINITIONS,
                "topics": self.topics,
            },
            "scann": asdict(self.scann),
            "config": to_dict(self.config),
        }
        if self.staleness is not None:
            values["staleness"] = self.staleness
        if self.rules is not None:
            values["rules"] = asdict(self.rules)
        return values
