"""python -m pinnerformer_jax.recommend."""

import pytest
from daily_run import ROWS, TRAINED, make_first_state, of_days
from rich.console import Console

from pinnerformer_jax import recommend
from pinnerformer_jax.serving.recommender import Item, Recommendations, Recommender


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    return make_first_state(tmp_path_factory.mktemp("world"))[1]


def test_titles_are_shown(snapshots, capsys):
    found = Recommender.open(snapshots).recommend("u001", 3)
    assert recommend.main(["--snapshots", str(snapshots), "--user", "u001", "-k", "3"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("user u001: by inner product (model ")
    for item in found.items:
        assert f"{item.title} " in output
        assert f"{item.score:.3f}" in output


def test_a_title_with_brackets_is_shown_as_it_is(capsys):
    found = Recommendations([Item("[b]1", "a [/foo] [red]dress", 0.5)], False, "m", "2026-01-01")
    Console().print(recommend._table(found))
    assert "a [/foo] [red]dress" in capsys.readouterr().out


def test_seen_items_are_hidden(snapshots, capsys):
    seen = {row["item"] for row in of_days(ROWS, 0, TRAINED) if row["user"] == "u001"}
    recommend.main(["--snapshots", str(snapshots), "--user", "u001", "-k", "99", "--hide-seen"])
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[1] for line in lines if line.startswith("│")}
    assert shown
    assert not shown & seen


def test_a_cold_user_is_told(snapshots, capsys):
    recommend.main(["--snapshots", str(snapshots), "--user", "nobody"])
    assert capsys.readouterr().out.startswith("user nobody: no vector, so the most popular items")


@pytest.mark.parametrize("user", ["-003abc", "--x", "-"])
@pytest.mark.parametrize("joined", [True, False])
def test_an_id_may_start_with_a_dash(snapshots, capsys, user, joined):
    flags = [f"--user={user}"] if joined else ["--user", user]
    assert recommend.main(["--snapshots", str(snapshots), *flags, "-k", "1"]) == 0
    assert capsys.readouterr().out.startswith(f"user {user}: no vector")


def test_a_forgotten_id_is_said(snapshots, capsys):
    with pytest.raises(SystemExit):
        recommend.main(["--user", "-k", "1", "--snapshots", str(snapshots)])
    assert "argument --user: expected one argument" in capsys.readouterr().err


def test_nothing_there_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        recommend.main(["--snapshots", str(tmp_path), "--user", "u001"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_ids_are_of_the_type_of_the_log():
    import pyarrow as pa

    assert recommend._user_id("007", pa.string()) == "007"
    assert recommend._user_id("007", pa.int64()) == 7
    with pytest.raises(ValueError, match="--user 'u1': user ids are of type int64"):
        recommend._user_id("u1", pa.int64())
