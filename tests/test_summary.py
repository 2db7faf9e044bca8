"""What a run did, in lines."""

from pinnerformer_jax.serving.manifest import (
    Counts,
    EventCounts,
    IndexReport,
    ItemCounts,
    LogCounts,
    TimelineCounts,
    UserCounts,
)
from pinnerformer_jax.serving.summary import summary


def test_a_day_with_everything():
    counts = Counts(
        TimelineCounts(without_item=1, timelines_after_day=2),
        LogCounts(3000, 4, {"missing user": 5}, 6, 7, 2978),
        EventCounts(8, 9, 10, 11, 12000),
        UserCounts(13, 14, 15, 16),
        ItemCounts(17, 18),
    )
    assert list(summary(counts, IndexReport(0, 0, 0, False, 10, 1024, 0.98765))) == [
        "log: 3,000 rows, of which 4 out of scope",
        "  set aside, missing user: 5",
        "  of other actions 6, after the day 7",
        "  of deleted users 9, stored already 10",
        "events: 11 new, 12,000 stored",
        "  left out, prepared but after the day: 2",
        "  left out, of items that are not in the catalogue any more: 1",
        "items that came after the training: 17 new, 18 in all",
        "deleted users: 16 in all; 8 of them had events here, which this run removed",
        "users in --users who are unknown, deleted or have too few events: 14",
        "users: 13 embedded, 15 in the snapshot",
        "index: recall@10 0.9877 of exact search, 1,024 users",
    ]


def test_what_did_not_happen_has_no_line():
    assert list(summary(Counts(), IndexReport(error="no AVX here"))) == [
        "events: 0 new, 0 stored",
        "users: 0 embedded, 0 in the snapshot",
        "no index, search is exact: no AVX here",
    ]
    assert len(list(summary(Counts(), IndexReport(0, 0, 0, False)))) == 2  # no users, no recall
