import jax
import numpy as np
import pytest
import small_study

from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import read_manifest
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.studies.measure import StudyData, measure_run
from pinnerformer_jax.training.checkpoint import Checkpoints
from pinnerformer_jax.training.run_record import RunRecord, claim, data_digest
from pinnerformer_jax.training.sharding import make_mesh, replicate
from pinnerformer_jax.training.state import create


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(data, workdir) of an untrained model."""
    folder = tmp_path_factory.mktemp("measure")
    config = small_study.prepared(folder)
    manifest, features = read_manifest(config.data.prepared), Catalog.open(config.data.prepared).features
    sizes = Sizes(features.shape[1], len(manifest.actions), len(manifest.surfaces))
    claim(folder / "work", RunRecord(config, sizes, data_digest(manifest)))
    state = jax.device_get(jax.jit(lambda: create(config, sizes)[1])())
    with Checkpoints(folder / "work") as checkpoints:
        checkpoints.save(replicate(make_mesh(), state._replace(step=np.int32(1))))
    return StudyData.open(config), folder / "work"


@pytest.mark.slow
def test_each_part_gives_its_numbers_by_method(run):
    data, workdir = run
    found = measure_run(data, workdir, ("retrieval", "staleness", "pinnersage", "ranker"))
    assert set(found) == {
        "pinnerformer", "pinnersage_1", "pinnersage_5", "pinnersage_20", "no_vector", "pinnersage_mean",
    }  # fmt: skip
    model = found["pinnerformer"]
    assert {
        "recall@10", "p90_coverage@10", "interest_entropy@50", "recall@10 like", "recall@10 save",
        "new_items recall@3", "recall@10 daily", "lost daily", "auc", "gained_low",
    } <= set(model)  # fmt: skip
    assert model["lost daily"] == 1 - model["recall@10 daily"] / model["recall@10 real time"]
    oracle = [found[f"pinnersage_{count}"]["recall@10"] for count in (1, 5, 20)]
    assert oracle == sorted(oracle)
    assert set(found["pinnersage_5"]) == {"recall@10", "interest_entropy@50", "p90_coverage@10"}
    assert set(found["no_vector"]) == {key for key in model if key in found["pinnersage_mean"]}


@pytest.mark.slow
def test_only_what_is_asked_for_is_measured(run):
    data, workdir = run
    assert set(measure_run(data, workdir, ("staleness",))["pinnerformer"]) == {
        "recall@10 once", "recall@10 daily", "recall@10 real time", "lost daily",
    }  # fmt: skip


def test_the_ranker_knows_users_without_targets_too(run):
    users, shown, _ = run[0].impressions
    assert set(run[0].protocol.users) < set(users)
    assert set(shown.user) <= set(users)
    assert not shown.positive.all()  # views, that are in no timeline
