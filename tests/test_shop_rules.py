"""Rules of a shop: in the API, and from files on the command line."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from daily_run import ITEMS, make_first_state

from pinnerformer_jax import recommend, similar
from pinnerformer_jax.serving import bulk, snapshot, state
from pinnerformer_jax.serving.recommender import Recommender
from pinnerformer_jax.serving.shop_rules import ShopRules, read_ids

USER = "u001"
CATEGORY = {f"i{number}": "abc"[number % 3] for number in range(ITEMS - 2)}  # two items have none


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    return make_first_state(tmp_path_factory.mktemp("world"))[1]


def ids(found):
    return [item.id for item in found.items]


def capped(items, at_most):
    taken, kept = {}, []
    for item in items:
        category = CATEGORY.get(item, item)
        taken[category] = taken.get(category, 0) + 1
        if taken[category] <= at_most or item not in CATEGORY:
            kept.append(item)
    return kept


@pytest.mark.parametrize("user", [USER, "nobody"])
def test_rules_can_be_replaced_at_any_time(snapshots, user):
    recommender = Recommender.open(snapshots)
    every = ids(recommender.recommend(user, ITEMS))
    recommender.rules = ShopRules(block=every[:3])
    assert ids(recommender.recommend(user, ITEMS)) == every[3:]
    assert ids(recommender.recommend(user, 2)) == every[3:5]
    recommender.rules = ShopRules(allow=[every[7], every[4], "i999"], block=[every[7]])
    assert ids(recommender.recommend(user, 5)) == [every[4]]
    recommender.rules = ShopRules(category=CATEGORY, at_most=2)
    assert ids(recommender.recommend(user, ITEMS)) == capped(every, 2)
    recommender.rules = ShopRules(allow=[])
    assert ids(recommender.recommend(user, 5)) == []
    recommender.rules = None
    assert ids(recommender.recommend(user, ITEMS)) == every


def test_rules_hold_in_a_file_and_beside_seen_items(snapshots, tmp_path):
    recommender = Recommender.open(snapshots)
    every = ids(recommender.recommend(USER, ITEMS, exclude_seen=True))
    recommender.rules = ShopRules(block=every[:1], category=CATEGORY, at_most=1)
    wanted = capped(every[1:], 1)[:3]
    assert ids(recommender.recommend(USER, 3, exclude_seen=True)) == wanted
    file = tmp_path / "recs.parquet"
    bulk.write_recommendations(recommender, pa.array([USER]), 3, file, exclude_seen=True)
    assert pq.read_table(file)["item_id"].to_pylist() == wanted


def printed(capsys, snapshots, *flags):
    assert recommend.main(["--snapshots", str(snapshots), "--user", USER, "--json", *flags]) == 0
    output = capsys.readouterr()
    return [item["item_id"] for item in json.loads(output.out)["items"]], output.err


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_are_read_at_each_call(snapshots, tmp_path, capsys, kind):
    every = printed(capsys, snapshots, "-k", "99")[0]
    allow, block = tmp_path / "allow.txt", tmp_path / "block.txt"
    allow.write_text("\n".join(every[2:]) + "\nold-1\n")
    block.write_text(f"\ufeff {every[3]} \r\n\r\n")
    found, warnings = printed(capsys, snapshots, "--allow", str(allow), "--block", str(block), "-k", "3")
    assert found == [every[2], every[4], every[5]]
    assert warnings == f"WARNING: {allow}: 1 of {ITEMS - 1} ids are not among the items: 'old-1'\n"
    block.write_text(every[2])
    assert printed(capsys, snapshots, "--block", str(block), "-k", "3")[0] == [every[0], every[1], every[3]]
    products = pa.table({"sku": [*CATEGORY, "i18"], "shelf": [*CATEGORY.values(), None]})
    table = tmp_path / f"products.{kind}"
    (pq.write_table if kind == "parquet" else pa.csv.write_csv)(products, table)
    cap = ["--category-of", str(table), "sku", "shelf", "--at-most", "2"]
    assert printed(capsys, snapshots, *cap, "-k", "99")[0] == capped(every, 2)


def test_wrong_rules_are_named(snapshots, tmp_path, capsys):
    (tmp_path / "latin.txt").write_bytes("i1\n\xe9".encode("latin-1"))
    (tmp_path / "foreign.txt").write_text("x1\nx2\n")
    (tmp_path / "p.csv").write_text("sku,shelf\ni1,a\ni1,b\n")
    for flags, message in [
        (["--allow", "latin.txt"], "latin.txt: byte 4 is not UTF-8"),
        (["--allow", "foreign.txt"], "foreign.txt: none of its 2 ids is one of the items"),
        (["--block", "none.txt"], "none.txt"),
        (["--at-most", "2"], "--at-most and --category-of go together"),
        (["--category-of", "none.csv", "sku", "shelf", "--at-most", "2"], "none.csv: no such file"),
        (["--category-of", "p.csv", "id", "shelf", "--at-most", "2"], "no column 'id'; it has sku, shelf"),
        (["--category-of", "p.csv", "sku", "shelf", "--at-most", "0"], "p.csv: items with more than one"),
    ]:
        paths = [str(tmp_path / flag) if flag.endswith((".txt", ".csv")) else flag for flag in flags]
        with pytest.raises(SystemExit) as stopped:
            recommend.main(["--snapshots", str(snapshots), "--user", USER, *paths])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="at most 0 items of a category"):
        ShopRules(at_most=0)


def test_a_line_that_is_no_id_is_named(tmp_path):
    (tmp_path / "ids.txt").write_text("1\n\n 2 \nthree\n")
    with pytest.raises(ValueError, match=r"ids.txt, line 4: 'three' is no id of type int64"):
        read_ids(tmp_path / "ids.txt", pa.int64())
    assert read_ids(tmp_path / "ids.txt", pa.string()).to_pylist() == ["1", "2", "three"]


def test_similar_items_are_the_nearest(snapshots, capsys):
    items = snapshot.read_parquet(snapshots / state.current(snapshots) / "items.parquet")
    vectors, names = snapshot.vectors_of(items), items["item_id"].to_pylist()
    recommender = Recommender.open(snapshots)
    scores = vectors @ vectors[4]
    best = [row for row in np.argsort(-scores, kind="stable") if row != 4]
    found = recommender.similar(names[4], 5)
    assert [item.id for item in found] == [names[row] for row in best[:5]]
    np.testing.assert_allclose([item.score for item in found], scores[best[:5]], atol=1e-6)
    assert [item.id for item in recommender.similar(names[4], 99)] == [names[row] for row in best]
    recommender.rules = ShopRules(block=[names[best[0]]])
    assert [item.id for item in recommender.similar(names[4], 2)] == [names[row] for row in best[1:3]]
    with pytest.raises(ValueError, match="item 'none': none of the 20 items of the state"):
        recommender.similar("none")
    with pytest.raises(ValueError, match="k = 0"):
        recommender.similar(names[4], 0)
    assert similar.main(["--snapshots", str(snapshots), "--item", names[4], "-k", "2"]) == 0
    output = capsys.readouterr().out
    assert f"item {names[4]} (Item {names[4][1:]}): nearest items (model " in output
    assert [line.split()[1] for line in output.splitlines() if line.startswith("│")] == [
        names[row] for row in best[:2]
    ]


def test_ids_that_can_be_read_only_once_are_refused():
    with pytest.raises(ValueError, match="give a list or a set"):
        ShopRules(block=(item for item in ("a", "b")))
