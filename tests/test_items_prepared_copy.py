"""The copy: same timelines, new vectors, another digest."""

import json

import numpy as np
import pytest

from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.items import prepared_copy
from pinnerformer_jax.items.prepared_copy import write_copy
from pinnerformer_jax.training.run_record import check_ingested, data_digest
from tests.items_world import ITEMS, config, write_world


@pytest.fixture
def timelines(tmp_path):
    return Timelines.open(write_world(tmp_path / "p"))


def vectors():
    made = np.random.default_rng(0).standard_normal((ITEMS, 5)).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    made[3] = 0
    return made


@pytest.mark.parametrize("links", [True, False])
def test_a_prepared_folder_with_these_vectors(tmp_path, timelines, links, monkeypatch):
    if not links:
        monkeypatch.setattr(
            prepared_copy.os, "link", lambda *_: (_ for _ in ()).throw(OSError("another disk"))
        )
    write_copy(timelines, tmp_path / "out", vectors(), {"method": "mine"})
    out = Timelines.open(tmp_path / "out", verify=True)
    check_ingested(out.manifest, config(tmp_path / "out"))
    np.testing.assert_array_equal(out.shards[1].item, timelines.shards[1].item)
    catalog = Catalog.open(tmp_path / "out")
    np.testing.assert_array_equal(catalog.features, vectors().astype(np.float16))
    assert np.flatnonzero(~catalog.reachable).tolist() == [3]
    assert out.manifest.counts["unreachable_items"] == 1
    assert catalog.titles == Catalog.open(tmp_path / "p").titles
    assert json.loads((tmp_path / "out/catalog/vectors.json").read_text()) == {"method": "mine"}
    Timelines.open(tmp_path / "p", verify=True)  # the source is as it was


def test_the_digest_follows_method_and_vectors(tmp_path, timelines):
    def digest(name, made, method):
        write_copy(timelines, tmp_path / name, made, {"method": method})
        return data_digest(Timelines.open(tmp_path / name).manifest)

    first = digest("a", vectors(), "x")
    assert digest("b", vectors(), "x") == first
    assert len({first, digest("c", -vectors(), "x"), digest("d", vectors(), "y")}) == 3
    assert first != data_digest(timelines.manifest)


def test_a_copy_of_a_copy(tmp_path, timelines):
    write_copy(timelines, tmp_path / "a", -vectors(), {"method": "x"})
    write_copy(Timelines.open(tmp_path / "a"), tmp_path / "b", vectors(), {"method": "y"})
    np.testing.assert_array_equal(Catalog.open(tmp_path / "b").features, vectors().astype(np.float16))
    Timelines.open(tmp_path / "b", verify=True)


def test_what_is_no_prepared_folder_is_left_alone(tmp_path, timelines):
    (tmp_path / "mine").mkdir()
    for out in (tmp_path / "p", tmp_path / "mine"):
        with pytest.raises(ValueError, match="name another"):
            write_copy(timelines, out, vectors(), {})
