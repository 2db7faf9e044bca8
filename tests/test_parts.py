"""An ingest in parts gives the bytes of the one-machine ingest, whoever runs the parts and however often."""

import dataclasses
import multiprocessing
import os
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from logs import given, make_events, without_vectors, write_items, write_parquet

from pinnerformer_jax import workers
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.ingest import main
from pinnerformer_jax.ingestion import part_engines, part_job, parts
from pinnerformer_jax.ingestion.ingest import prepare
from pinnerformer_jax.ingestion.part_engines import prepare_in_parts
from pinnerformer_jax.ingestion.part_job import STAGES, Job
from pinnerformer_jax.ingestion.parts import finish, run_part

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*fork.*:DeprecationWarning", "ignore:.*fork.*:RuntimeWarning"
)


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(Path(folder).rglob("*")) if file.is_file()
    }  # fmt: skip


def write_log(folder):
    """Four files: bad rows, duplicates within and across files, and a CSV with a broken line."""
    folder.mkdir(exist_ok=True)
    rows = make_events(users=60)
    rows += [rows[3], rows[400], rows[5] | {"time": -1}, rows[7] | {"user": None}, rows[9] | {"item": "i99"}]
    rows = [row | {"name": f"{row['action']} of {row['item']}"} for row in rows]
    for k in range(3):
        write_parquet(folder / f"part={k}.parquet", rows[k::3])
    pq_rows = pq.read_table(folder / "part=0.parquet").slice(0, 20)
    pyarrow.csv.write_csv(pq_rows, folder / "z.csv")
    with open(folder / "z.csv", "a") as file:
        file.write("u1,i1\n")
    return (str(folder / "*.parquet"), str(folder / "z.csv"))


def config_of(tmp_path, **data):
    columns = {"time": "CAST(time AS BIGINT)", "duration": "CAST(duration AS DOUBLE)", "title": "name"}
    write_items(tmp_path / "items.parquet", items=14)
    config = given(tmp_path, events=write_log(tmp_path / "log"), max_reject_share=0.5, **data)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, columns=dataclasses.replace(config.data.columns, **columns)),
    )


def by_one_machine(config):
    prepare(config, lambda line: None)
    expected = contents(config.data.prepared)
    shutil.rmtree(config.data.prepared)
    return expected


def run_stages(config, stages=STAGES[:-1]):
    job = Job.of(config)
    for stage in stages:
        for part in reversed(range(job.parts(stage))):
            run_part(job, stage, part, "200MB")
    return job


@pytest.fixture
def config(tmp_path):
    return config_of(tmp_path)


@pytest.fixture(autouse=True)
def a_file_is_a_part(monkeypatch):
    monkeypatch.setattr(part_job, "SMALL_ROWS", 1)


@pytest.mark.parametrize("kind", ["given", "built", "without events", "sizes by log", "chosen actions"])
def test_the_stages_give_the_same_bytes(tmp_path, kind):
    config = config_of(tmp_path, **{"sequence_actions": ("view", "save")} if kind == "chosen actions" else {})
    if kind == "built":
        config = without_vectors(config)
    if kind == "without events":
        items = dataclasses.replace(config.items, without_events=True, title="title")
        config = dataclasses.replace(config, items=items)
    if kind == "sizes by log":
        shares = dataclasses.replace(config.data, evaluation_share=0.1, validation_share=0.02)
        config = dataclasses.replace(config, data=shares, sizes_by_log=True)
    expected = by_one_machine(config)
    finish(run_stages(config), "200MB", lambda line: None)
    assert contents(config.data.prepared) == expected
    rejected = Timelines.open(config.data.prepared, verify=True).manifest.counts["rejected"]
    assert {"missing user", "time out of range", "broken CSV line", "exact duplicate"} <= set(rejected)
    assert not Path(f"{config.data.prepared}.parts").exists()


def test_a_column_that_one_file_lacks_or_types_otherwise(tmp_path):
    """A part sees one file, and must see in it the columns and types of all."""
    rows = [row | {"user": int(row["user"][1:])} for row in make_events()]
    plain = [
        {name: row[name] for name in ("user", "item", "time", "action", "duration")} for row in rows[:200]
    ]
    wide = [row | {"user": row["user"] + 2**40} for row in rows[200:]]
    write_parquet(tmp_path / "a.parquet", plain, user=pa.int32())
    write_parquet(tmp_path / "b.parquet", wide, user=pa.int64())
    config = given(tmp_path, events=(str(tmp_path / "[ab].parquet"),), shards=8)
    expected = by_one_machine(config)
    finish(run_stages(config), "200MB", lambda line: None)
    assert contents(config.data.prepared) == expected


@pytest.mark.parametrize("own_number", [False, True])
def test_a_large_file_is_several_parts_by_its_row_groups(config, tmp_path, monkeypatch, own_number):
    """Numbers of rows in the rejects are those of the file."""
    rows = pq.read_table(tmp_path / "log" / "part=0.parquet")
    if own_number:  # a column that the engine would take for its own number of the row
        rows = rows.append_column("file_row_number", pa.array([7] * len(rows)))
    pq.write_table(rows, tmp_path / "log" / "part=0.parquet", row_group_size=50)
    expected = by_one_machine(config)
    monkeypatch.setattr(part_job, "PART_ROWS", 60)
    job = run_stages(config)
    numbers = [(rows.first, rows.last) for [rows] in job.log]
    assert numbers == [(1, 100), (101, 200), (201, len(rows)), (1, None), (1, None), (1, None)]
    assert str(job.log[1][0]).endswith("part=0.parquet, rows 101 to 200")
    assert [job.facts("scatter", part)["rows"] for part in range(3)] == [100, 100, len(rows) - 200]
    finish(job, "200MB", lambda line: None)
    assert contents(config.data.prepared) == expected


@pytest.mark.parametrize(("least", "sizes"), [(250, [2, 2]), (240, [1, 1, 1, 1]), (400, [2, 2]), (9999, [4])])
def test_small_files_are_a_part_together(config, monkeypatch, least, sizes):
    expected = by_one_machine(config)
    monkeypatch.setattr(part_job, "SMALL_ROWS", least)
    job = run_stages(config)
    assert [len(part) for part in job.log] == sizes
    finish(job, "200MB", lambda line: None)
    assert contents(config.data.prepared) == expected


def split_item_table(config, tmp_path, rows, pieces):
    """The item table as files of so many rows each, and a row that has a vector of zeros."""
    for k in range(pieces):
        pq.write_table(rows.slice(k * 5, 5), tmp_path / f"items.{k}.parquet")
    table = str(tmp_path / "items.?.parquet")
    return dataclasses.replace(config, items=dataclasses.replace(config.items, table=table))


def test_an_item_table_in_parts(config, tmp_path):
    rows = pq.read_table(tmp_path / "items.parquet")
    vectors = rows["vector"].to_pylist()
    vectors[6], vectors[8] = [0.0] * len(vectors[6]), None
    rows = rows.set_column(rows.column_names.index("vector"), "vector", [vectors])
    pq.write_table(rows, tmp_path / "items.parquet")
    expected = by_one_machine(config)
    split = split_item_table(config, tmp_path, rows, 3)
    job = run_stages(split)
    assert [job.facts("items", part)["vectors"] for part in range(3)] == [5, 3, 4]
    finish(job, "200MB", lambda line: None)
    found = contents(config.data.prepared)
    assert {name for name in found if found[name] != expected[name]} == {
        "manifest.json"
    }  # it names the table


@pytest.mark.parametrize(("second", "message"), [
    ({"vector": [[1.0, 2.0]] * 5}, "vectors have 2 numbers in .*items.1.parquet, 4 in .*items.0.parquet"),
    ({"item": ["i3", "n1", "n2", "n3", "n4"]}, "has item 'i3' more than once"),
])  # fmt: skip
def test_parts_of_an_item_table_that_do_not_fit(config, tmp_path, second, message):
    rows = pq.read_table(tmp_path / "items.parquet").slice(0, 10)
    changed = rows.slice(5, 5)
    for name, values in second.items():
        values = pa.array(values, changed.schema.field(name).type)
        changed = changed.set_column(changed.column_names.index(name), name, values)
    split = split_item_table(config, tmp_path, pa.concat_tables([rows.slice(0, 5), changed]), 2)
    with pytest.raises(ValueError, match=message):
        run_stages(split, ("items", "table"))


@pytest.mark.slow
def test_processes_give_the_same_bytes_and_say_how_far_they_are(config):
    expected, said = by_one_machine(config), []
    prepare_in_parts(config, "processes", 2, report=said.append)
    assert contents(config.data.prepared) == expected
    assert any(line.startswith("scatter: 4 of 4 parts, 746 rows (") for line in said), said


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed")
def test_ray_gives_the_same_bytes(config):
    import ray

    expected = by_one_machine(config)
    try:
        prepare_in_parts(config, "ray", 2, report=lambda line: None)
    finally:
        ray.shutdown()
    assert contents(config.data.prepared) == expected


def test_a_limit_in_bytes():
    limits = ["2GB", "500 MiB", "1.5kb", "80%", "7 bytes"]
    assert [part_engines.memory_bytes(limit, 1e9) for limit in limits] == [
        2 * 10**9, 500 * 2**20, 1500, 800_000_000, 7
    ]  # fmt: skip


@pytest.mark.skipif(bool(find_spec("ray")), reason="Ray is installed")
def test_without_ray_one_line_says_what_to_install(config):
    with pytest.raises(ValueError, match=r"pip install 'pinnerformer_jax\[ray\]'"):
        prepare_in_parts(config, "ray")


def die_at(stage, part, times, folder):
    """Make a process that runs this part kill itself so many times."""
    real = parts.RUN[stage]

    def dying(job, task):
        if task.part == part:
            for k in range(times):
                try:
                    (Path(folder) / f"died{k}").touch(exist_ok=False)
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        return real(job, task)

    parts.RUN[stage] = dying


def _by_forks(monkeypatch):
    """Processes that see the changes which a test made."""
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda kind: multiprocessing)


@pytest.mark.parametrize(("stage", "part"), [("scatter", 2), ("merge", 1), ("number", 0), ("gather", 0)])
def test_a_worker_that_is_killed_twice_is_run_again(config, tmp_path, monkeypatch, stage, part):
    _by_forks(monkeypatch)
    monkeypatch.setattr(parts, "RUN", dict(parts.RUN))
    expected, said = by_one_machine(config), []
    die_at(stage, part, 2, tmp_path)
    prepare_in_parts(config, "processes", 1, report=said.append)
    assert contents(config.data.prepared) == expected
    assert sum("ended with code -9; running it again" in line for line in said) == 2


def test_a_worker_that_always_dies_is_named_and_the_same_command_goes_on(config, tmp_path, monkeypatch):
    _by_forks(monkeypatch)
    monkeypatch.setattr(parts, "RUN", dict(parts.RUN))
    expected, said = by_one_machine(config), []
    die_at("merge", 1, 3, tmp_path)
    with pytest.raises(ValueError, match=r"part 1 of stage merge failed 3 times: .* code -9"):
        prepare_in_parts(config, "processes", 1, report=said.append)
    assert not Path(config.data.prepared).exists()
    made = {file: file.stat().st_mtime_ns for file in Job.of(config).work.glob("scatter/0*/*.parquet")}
    said.clear()
    more = dataclasses.replace(config, data=dataclasses.replace(config.data, memory_limit="600MB"))
    prepare_in_parts(more, "processes", 1, report=said.append)  # it had died often enough
    assert made
    assert "scatter: 4 of 4 parts were done before" in said
    found = contents(config.data.prepared)
    assert {name: found[name] for name in found if name != "manifest.json"} == {
        name: expected[name] for name in expected if name != "manifest.json"
    }


def test_the_same_part_twice_at_once(config):
    expected = by_one_machine(config)
    job, fork = Job.of(config), multiprocessing.get_context("fork")
    for stage in STAGES[:-1]:
        twice = [
            fork.Process(target=run_part, args=(job, stage, part, "100MB", 1))
            for part in range(job.parts(stage))
            for _ in range(2)
        ]
        for process in twice:
            process.start()
        for process in twice:
            process.join()
            assert process.exitcode == 0
    finish(job, "200MB", lambda line: None)
    assert contents(config.data.prepared) == expected


def test_other_input_never_meets_old_results(config, tmp_path):
    old = run_stages(config, ("items", "table", "scatter", "merge"))
    rows = make_events(seed=1)
    write_parquet(tmp_path / "log" / "part=1.parquet", [row | {"name": "n"} for row in rows])
    job = Job.of(config)
    assert job.work != old.work
    with pytest.raises(
        ValueError, match="4 of 4 parts of --stage scatter have not run with this log and these"
    ):
        run_part(job, "merge", 0, "200MB")
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, min_user_events=3))
    assert Job.of(other).work not in (old.work, job.work)


def test_wrong_input_is_one_message_and_no_retry(config, monkeypatch):
    _by_forks(monkeypatch)
    wrong = dataclasses.replace(config.data, columns=dataclasses.replace(config.data.columns, user="usr"))
    said = []
    with pytest.raises(ValueError, match=r"data.columns.user = 'usr': there is no such column"):
        prepare_in_parts(dataclasses.replace(config, data=wrong), "processes", 1, report=said.append)
    strict = dataclasses.replace(config.data, max_reject_share=0.0)
    with pytest.raises(ValueError, match=r"rows .* are bad; data.max_reject_share = 0"):
        prepare_in_parts(dataclasses.replace(config, data=strict), "processes", 1, report=said.append)
    assert not any("again" in line for line in said)
    assert pq.read_table(f"{config.data.prepared}.rejects.parquet").num_rows > 3


CONFIG = """
from pinnerformer_jax.config import ColumnsConfig, Config, DataConfig, ItemsConfig
config = Config(
    data=DataConfig(
        events=("log.parquet",), prepared="prepared", evaluation_share=0.3, shards=5,
        columns=ColumnsConfig(action="action", surface="surface", duration="duration"),
    ),
    items=ItemsConfig(table="items.parquet", vector="vector", title="title"),
)
"""


def test_the_verb_by_hand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    verb = ["--config", "config.py"]
    main(verb)
    expected = contents("prepared")
    with pytest.raises(SystemExit):
        main([*verb, "--stage", "merge", "--part", "1/2"])
    assert "1 of 1 parts of --stage scatter have not run" in capsys.readouterr().err
    for stage in STAGES:
        for share in ("2/2", "1/2") if stage in ("items", "scatter", "merge", "count", "gather") else ("",):
            main([*verb, "--stage", stage, *(["--part", share] if share else [])])
    assert contents("prepared") == expected
    output = capsys.readouterr().out
    assert "scatter: nothing to do, it has 1 parts" in output
    assert output.endswith("prepared prepared\n")
    for wrong in ("--stage split --part 1/2", "--part 1/2", "--workers 2", "--stage merge --part 0/2",
                  "--stage merge --engine ray", "--engine processes --ray-address x"):  # fmt: skip
        with pytest.raises(SystemExit) as stopped:
            main([*verb, *wrong.split()])
        assert stopped.value.code == 2
