"""What a run of the daily job did, in lines to show."""

from __future__ import annotations

from collections.abc import Iterator

from pinnerformer_jax.serving.manifest import Counts, IndexReport


def summary(counts: Counts, index: IndexReport) -> Iterator[str]:
    """Lines, from the log to the index."""
    timelines, log, events, users, items = (
        counts.timelines, counts.log, counts.events, counts.users, counts.items
    )  # fmt: skip
    if log:
        yield f"log: {log.rows:,} rows, of which {log.out_of_scope:,} out of scope"
        for reason, rows in log.rejected.items():
            yield f"  set aside, {reason}: {rows:,}"
        yield f"  of other actions {log.other_actions:,}, after the day {log.after_day:,}"
        yield f"  of deleted users {events.of_deleted_users:,}, stored already {events.known_already:,}"
    yield f"events: {events.new_events:,} new, {events.stored_events:,} stored"
    if timelines and timelines.timelines_after_day:
        yield f"  left out, prepared but after the day: {timelines.timelines_after_day:,}"
    if timelines and timelines.without_item:
        yield f"  left out, of items that are not in the catalogue any more: {timelines.without_item:,}"
    if items.items_after_training:
        total = items.items_after_training
        yield f"items that came after the training: {items.new_items:,} new, {total:,} in all"
    if users.tombstones:
        yield (
            f"deleted users: {users.tombstones:,} in all; {events.deleted_users:,} of them had events here, "
            "which this run removed"
        )
    if users.named_without_vector:
        yield (
            "users in --users who are unknown, deleted or have too few events: "
            f"{users.named_without_vector:,}"
        )
    yield f"users: {users.embedded_users:,} embedded, {users.users:,} in the snapshot"
    if index.error is not None:
        yield f"no index, search is exact: {index.error}"
    elif index.recall is not None:
        yield f"index: recall@{index.k} {index.recall:.4f} of exact search, {index.queries:,} users"
