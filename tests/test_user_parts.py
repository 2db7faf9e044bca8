"""Users embedded in parts: the state has the bytes of one run, whoever made the parts and how often."""

import shutil

import pytest
from daily_run import ROWS, TRAINED, contents, day, make_run, of_days, publish, write_log

from pinnerformer_jax import embed
from pinnerformer_jax.serving import daily, snapshot, users
from pinnerformer_jax.serving.plan import Job
from pinnerformer_jax.serving.user_parts import parts_folder


@pytest.fixture(scope="module")
def run_of_rows(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), ROWS)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(snapshot, "GROUP", 8)
    monkeypatch.setattr(embed, "set_up_process", lambda: None)


def counting(monkeypatch):
    """How many users were embedded, by call."""
    real, sizes = users.embed_histories, []

    def embed_histories(embedder, histories, model, chosen):
        sizes.append(len(chosen))
        return real(embedder, histories, model, chosen)

    monkeypatch.setattr(users, "embed_histories", embed_histories)
    return sizes


def test_parts_give_the_bytes_of_one_run(run_of_rows, tmp_path, monkeypatch, capsys):
    job = {"date": day(TRAINED - 1)}
    name = publish(run_of_rows, tmp_path / "one", **job)
    sizes = counting(monkeypatch)
    verb = ["--snapshots", str(tmp_path / "many"), "--workdir", str(run_of_rows), "--date", day(TRAINED - 1)]
    for part in ("2/3", "1/3", "1/3", "9/9"):
        assert embed.main([*verb, "--part", part]) == 0
    assert sizes == [8, 1, 8, 8]  # of groups 1 and 4, 0 and 3
    said = capsys.readouterr().out
    assert "group 0 of 5: 8 users\n" in said
    assert "group 0 of 5: made before\n" in said
    assert "nothing to do: the users are 5 groups of 8" in said
    assert not (tmp_path / "many" / "CURRENT").exists()
    sizes.clear()
    assert embed.main(verb) == 0
    assert sizes == [8]  # of group 2, which no part had
    assert contents(tmp_path / "many" / name) == contents(tmp_path / "one" / name)
    assert not (tmp_path / "many.parts").exists()


def test_everyone_of_a_later_day(run_of_rows, tmp_path, monkeypatch):
    one, many = tmp_path / "one", tmp_path / "many"
    publish(run_of_rows, one, date=day(TRAINED - 1))
    shutil.copytree(one, many)
    job = {"date": day(TRAINED), "events": (write_log(tmp_path, ROWS, TRAINED),)}
    with pytest.raises(ValueError, match="--part: only the users with new events are embedded"):
        list(daily.run_part(Job(run_of_rows, many, **job), (0, 2)))
    job["everyone"] = True
    name = publish(run_of_rows, one, **job)
    sizes = counting(monkeypatch)
    list(daily.run_part(Job(run_of_rows, many, **job), (0, 2)))
    list(daily.run_part(Job(run_of_rows, many, **job), (1, 2)))
    assert sum(sizes) > len({row["user"] for row in of_days(ROWS, 0, TRAINED)}) * 0.9
    sizes.clear()
    assert publish(run_of_rows, many, **job) == name
    assert sizes == []
    assert contents(many / name) == contents(one / name)
    said = list(daily.run_part(Job(run_of_rows, many, **job), (1, 2)))
    assert said == [f"{name}: made before, of the same inputs"]


def test_a_damaged_part_and_one_of_other_users(run_of_rows, tmp_path):
    job = Job(run_of_rows, tmp_path / "snapshots", date=day(TRAINED - 1))
    said = list(daily.run_part(job, (0, 1)))
    [file, other, *_] = sorted(parts_folder(job.snapshots, "").rglob("users-*.parquet"))
    whole = file.read_bytes()
    shutil.copyfile(other, file)
    with pytest.raises(ValueError, match=r"users-00000.parquet: not of the users of this state; remove it"):
        daily.run(job, said.append)
    place = 200
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(ValueError, match=r"users-00000.parquet: damaged .*; remove it"):
        daily.run(job, said.append)
    file.unlink()
    daily.run(job, said.append)


def test_a_part_publishes_nothing(capsys):
    for more in (["--store", "lmdb:x"], ["--rollback"]):
        with pytest.raises(SystemExit) as stopped:
            embed.main(["--snapshots", "x", "--part", "1/2", *more])
        assert stopped.value.code == 2
        assert "--part publishes nothing" in capsys.readouterr().err
