"""The verdict of an evaluation in a few sentences: who leads, by how much, and what to do."""

from __future__ import annotations

from collections.abc import Iterator

from pinnerformer_jax.evaluation.baselines import UNTRAINED
from pinnerformer_jax.evaluation.comparison import MODEL, OF_MODEL, VECTORS
from pinnerformer_jax.evaluation.figures import label
from pinnerformer_jax.evaluation.results import Difference, MethodResults, ProtocolSummary
from pinnerformer_jax.retrieval.priors import Priors

NAMES = {"full": "all items", "new_items": "new items"}
MANY_UNREACHABLE = 0.1
"""Share of unreachable targets that the verdict begins with."""
FEW_USERS = 1000
"""With fewer evaluated users the verdict says which differences cannot be told."""


def verdict(methods: MethodResults, protocol: ProtocolSummary, priors: Priors) -> list[str]:
    """The sentences, the most important first.

    Args:
        methods: of "served" or of the model, and of the baselines.
        protocol: whose users and targets they are over.
        priors: of the method "served".
    """
    return [
        *_unreachable(protocol),
        *_chance(methods),
        *(_leader(methods, name) for name in NAMES if _baselines(methods, name)),
        *_hidden(protocol, priors),
        *_advice(methods, priors),
        *_by_vectors(methods),
        *_resolution(methods, protocol),
    ]


def _unreachable(protocol: ProtocolSummary) -> Iterator[str]:
    share = protocol.unreachable_pairs / max(protocol.unreachable_pairs + protocol.pairs, 1)
    if share >= MANY_UNREACHABLE:
        yield (
            f"{share:.0%} of the targets are items without a vector, which the model cannot recommend. Give "
            "their vectors (items.vector) or their text (items.title, items.text) in an item table, or make "
            "vectors by python -m pinnerformer_jax.items --method pinsage."
        )


def _chance(methods: MethodResults) -> Iterator[str]:
    random = [each for each in methods.differences if each.other == "random"]
    if random and all(each.low <= 0 for each in random):
        first = random[0]
        yield (
            f"{label(first.method)} cannot be told from items in random order ({first.value:+.3f} in "
            f"recall@10, interval {first.low:+.3f} to {first.high:+.3f}): nothing that was learned shows "
            "on these users. Check data.columns and data.positives, or evaluate more users."
        )


def _baselines(methods: MethodResults, protocol: str) -> list[Difference]:
    return [each for each in methods.differences if each.protocol == protocol and each.other not in OF_MODEL]


def _closest(methods: MethodResults, protocol: str) -> Difference:
    """From the best of the baselines under a protocol."""
    return min(_baselines(methods, protocol), key=lambda each: each.value)


def _leader(methods: MethodResults, protocol: str) -> str:
    """Who leads under a protocol: what is served, or the best of the baselines."""
    closest = _closest(methods, protocol)
    recall = {row.method: row.value for row in methods.rows if row.is_metric(protocol, "recall@10")}
    own, other = f"{label(closest.method)} {recall[closest.method]:.3f}", label(closest.other)
    numbers = f"{closest.value:+.3f}, interval {closest.low:+.3f} to {closest.high:+.3f}"
    where, against = f"On {NAMES[protocol]}", f"{other} {recall[closest.other]:.3f}"
    if closest.low > 0:
        return f"{where}, {own} leads {against}, the best baseline, in recall@10 ({numbers})."
    if closest.high < 0:
        return f"{where}, {against}, the best baseline, LEADS {own} in recall@10 ({numbers})."
    return f"{where}, {own} and {against}, the best baseline, cannot be told apart in recall@10 ({numbers})."


def _hidden(protocol: ProtocolSummary, priors: Priors) -> Iterator[str]:
    if priors.hide_seen:
        yield (
            f"{protocol.new_pairs:,} of {protocol.pairs:,} targets are items that the user did not have, so "
            "what a user had is left out of what is served."
        )


def _advice(methods: MethodResults, priors: Priors) -> Iterator[str]:
    gain = {each.protocol: each for each in methods.differences if each.other == MODEL}
    if priors.none:
        yield "No prior helped on validation users, so the inner product alone is served."
    elif gain and (gain["full"].low > 0 or gain.get("new_items", gain["full"]).low > 0):
        parts = [f"{each.value:+.3f} on {NAMES[name]}" for name, each in gain.items()]
        yield (
            f"The priors help ({', '.join(parts)}). The daily job and the verb recommend serve them from the "
            "next run of embed on."
        )
    lost = [name for name in NAMES if any(each.high < 0 for each in _baselines(methods, name))]
    if lost:
        where = " and ".join(NAMES[name] for name in lost)
        yield (
            f"Do not serve this model for {where}: the baseline is better. More users, better item vectors "
            "(docs/items.md) or other settings (docs/your-log.md) may change that."
        )
    if any(each.high < 0 for name in lost for each in _baselines(methods, name) if each.other == UNTRAINED):
        yield (
            "The mean of the last items' vectors needs no training: with model.aligned_start, "
            "--training.stop-after 1 keeps a model that starts as about that mean, to be served with priors "
            "of its own."
        )


def _by_vectors(methods: MethodResults) -> Iterator[str]:
    recall = {
        row.protocol: row.value
        for row in methods.rows
        if row.method == VECTORS and row.metric == "recall@10" and row.protocol in NAMES
    }
    if recall:
        reached = ", ".join(f"{recall[name]:.3f} on {NAMES[name]}" for name in NAMES if name in recall)
        yield (
            "In a vector database, which adds no priors, the vectors that the verb vectors writes reach "
            f"{reached}."
        )


def _resolution(methods: MethodResults, protocol: ProtocolSummary) -> Iterator[str]:
    if _baselines(methods, "full") and protocol.users < FEW_USERS:
        closest = _closest(methods, "full")
        yield (
            f"The log has {protocol.users:,} evaluated users: differences from that baseline of less than "
            f"{(closest.high - closest.low) / 2:.3f} cannot be told on all items. A larger "
            "data.evaluation_share has more."
        )
