"""manifest.json: what is written is read again, also what earlier versions of the package wrote."""

import dataclasses
import json

import pytest

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.retrieval.priors import Priors
from pinnerformer_jax.serving.manifest import (
    Counts,
    EventCounts,
    IndexReport,
    ItemCounts,
    LogCounts,
    Manifest,
    TimelineCounts,
    UserCounts,
    read_manifest,
    write_manifest,
)

EARLIER = {
    "format": 1,
    "date": "2026-03-31",
    "model_version": "3f960bebcb6d",
    "config": "bf2e9ab1e26d",
    "data": "e75c737e4c96",
    "base": "model_version=3f960bebcb6d/ds=2026-03-30/run=f69b401fd726",
    "inputs": {"events 0": "b05692843a453515", "items": "0044a7e94492ef2f", "tombstones 72a3": "72a3"},
    "max_length": 24,
    "dim": 8,
    "dtype": "float16",
    "counts": {
        "rows": 33, "out_of_scope": 0, "rejected": {"missing user": 2}, "other_actions": 0, "after_day": 0,
        "arrived": 31, "deleted_users": 1, "of_deleted_users": 0, "known_already": 0, "new_events": 31,
        "stored_events": 610, "embedded_users": 11, "named_without_vector": 0, "users": 37, "tombstones": 1,
        "new_items": 2, "items_after_training": 2,
    },
    "index": {
        "leaves": 0, "leaves_searched": 0, "reorder": 0, "soar": False, "k": 10, "queries": 37, "recall": 1.0,
        "parts": 1,
    },
    "files": {"popular.npy": {"bytes": 216, "sha256": "9c0b2369"}},
}  # fmt: skip
"""As the daily job wrote it when the counts were a dict."""


def write(root, values):
    (root / "state").mkdir(exist_ok=True)
    (root / "state" / "manifest.json").write_text(json.dumps(values))


def test_a_manifest_of_before_is_read(tmp_path):
    write(tmp_path, EARLIER)
    manifest = read_manifest(tmp_path, "state")
    assert manifest.counts == Counts(
        timelines=None,
        log=LogCounts(rows=33, rejected={"missing user": 2}, arrived=31),
        events=EventCounts(deleted_users=1, new_events=31, stored_events=610),
        users=UserCounts(embedded_users=11, users=37, tombstones=1),
        items=ItemCounts(new_items=2, items_after_training=2),
    )
    assert manifest.index == IndexReport(0, 0, 0, False, k=10, queries=37, recall=1.0, parts=1)
    assert manifest.files == EARLIER["files"]
    write_manifest(tmp_path / "state", manifest)
    written = json.loads((tmp_path / "state" / "manifest.json").read_text())
    assert written.pop("sha256")
    later = {"kept_events": 24, "priors": dataclasses.asdict(Priors()), "positives": []}
    assert written | {"files": EARLIER["files"]} == EARLIER | later | {"format": 2}


def test_counts_that_earlier_versions_did_not_have_are_zero(tmp_path):
    counts = {"without_item": 1, "timelines_after_day": 2, "new_events": 0, "stored_events": 5, "users": 3}
    write(tmp_path, EARLIER | {"counts": counts, "index": {"error": "no AVX here"}})
    manifest = read_manifest(tmp_path, "state")
    assert manifest.counts == Counts(
        TimelineCounts(1, 2), None, EventCounts(stored_events=5), UserCounts(users=3), ItemCounts()
    )
    assert manifest.index == IndexReport(error="no AVX here")


def test_what_is_written_is_read_again(tmp_path):
    facts = dict.fromkeys(("date", "model_version", "config", "data", "dtype"), "x")
    served = {"kept_events": 9, "priors": Priors(0.5), "positives": (PositiveRule(action="like"),)}
    manifest = Manifest(**facts, base=None, inputs={}, max_length=1, dim=2, **served)
    (tmp_path / "state" / "index").mkdir(parents=True)
    (tmp_path / "state" / "index" / "part").write_bytes(b"abc")
    write_manifest(tmp_path / "state", manifest)
    found = read_manifest(tmp_path, "state")
    assert list(found.files) == ["index/part"]
    assert dataclasses.replace(found, files={}) == manifest


def test_each_count_has_a_name_of_its_own():
    parts = (TimelineCounts, LogCounts, EventCounts, UserCounts, ItemCounts)
    names = [field.name for part in parts for field in dataclasses.fields(part)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("counts", [7, "none", None])
def test_counts_that_are_no_object_are_refused(tmp_path, counts):
    write(tmp_path, EARLIER | {"counts": counts})
    with pytest.raises(ValueError, match=r"manifest\.json: not the manifest of a state"):
        read_manifest(tmp_path, "state")
