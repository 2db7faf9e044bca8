"""Logs and item tables in object stores: fsspec's own in memory, and S3's protocol by moto."""

import contextlib
import dataclasses
import gzip
import shutil
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from daily_run import ROWS, TRAINED, contents, day, of_days, publish, write_log
from logs import given, make_events, write_items, write_parquet

from pinnerformer_jax.files import Unchanged
from pinnerformer_jax.ingestion import part_job, parts
from pinnerformer_jax.ingestion.ingest import prepare
from pinnerformer_jax.ingestion.log_reader import open_log
from pinnerformer_jax.ingestion.part_job import STAGES, Job
from pinnerformer_jax.remote_files import find

fsspec = pytest.importorskip("fsspec")
NO_S3 = pytest.mark.skipif(
    not all(find_spec(name) for name in ("s3fs", "moto", "flask")), reason="moto[server], s3fs not installed"
)


@pytest.fixture(scope="module")
def s3_server():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    type(system).clear_instance_cache()  # of the credentials of another test
    if not system.exists("bucket"):
        system.mkdir("bucket")
    yield "s3://bucket"
    system.rm("bucket", recursive=True)
    type(system).clear_instance_cache()


@pytest.fixture(params=["memory", pytest.param("s3", marks=NO_S3)])
def bucket(request):
    if request.param == "s3":
        yield request.getfixturevalue("s3")
    else:
        yield "memory:///bucket"
        fsspec.filesystem("memory").store.clear()


def put(file, url):
    with contextlib.suppress(FileExistsError), fsspec.open(url, "wb") as target:
        target.write(Path(file).read_bytes())
    return url


def bytes_in(folder, without=("rejects.parquet", "manifest.json")):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(Path(folder).rglob("*")) if file.is_file() and file.name not in without
    }  # fmt: skip


def rejects_in(folder, place):
    rows = pq.read_table(Path(folder) / "rejects.parquet").to_pylist()
    return [row | {"file": row["file"].removeprefix(str(place))} for row in rows]


def of_both(tmp_path, bucket):
    """The same log and items, in a folder and in the bucket: Parquet in folders KEY=VALUE, with a pattern's
    signs in a name, and a packed CSV with a broken line; configs of both."""
    log = tmp_path / "log"
    rows = make_events()
    rows += [rows[3], rows[5] | {"time": -1}, rows[7] | {"user": None}]
    for k in range(2):
        (log / f"day={k}").mkdir(parents=True)
        write_parquet(log / f"day={k}" / "p[1].parquet", rows[k::3])
    lines = [
        "user,item,time,action,surface,duration",
        *(",".join(map(str, row.values())) for row in rows[2::3]),
    ]
    (log / "z.csv.gz").write_bytes(gzip.compress("\n".join([*lines, "u1,i1"]).encode()))
    items = Path(write_items(tmp_path / "items.parquet"))
    put(items, f"{bucket}/items.parquet")
    for file in log.rglob("*.*"):
        put(file, f"{bucket}/log/{file.relative_to(log)}")
    columns = {"time": "CAST(time AS BIGINT)", "duration": "CAST(duration AS DOUBLE)", "topic": "day"}
    config = given(tmp_path, events=(f"{log}/*/*.parquet", f"{log}/z.csv.gz"), max_reject_share=0.5)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, columns=dataclasses.replace(config.data.columns, **columns)),
    )
    remote = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, events=(f"{bucket}/log/*/*.parquet", f"{bucket}/log/z.csv.gz")),
        items=dataclasses.replace(config.items, table=f"{bucket}/items.parquet"),
    )
    return config, remote, log


def test_a_log_in_a_bucket_gives_the_bytes_of_its_copy_here(tmp_path, bucket, monkeypatch):
    config, remote, log = of_both(tmp_path, bucket)
    prepare(config, lambda line: None)
    expected = bytes_in(config.data.prepared), rejects_in(config.data.prepared, log)
    assert {row["file"] for row in expected[1]} == {"/day=0/p[1].parquet", "/day=1/p[1].parquet", "/z.csv.gz"}
    shutil.rmtree(config.data.prepared)
    prepare(remote, lambda line: None)
    found = config.data.prepared
    assert (bytes_in(found), rejects_in(found, f"{bucket}/log")) == expected
    shutil.rmtree(found)

    for file in log.rglob("*.parquet"):
        rows = pq.read_table(file, partitioning=None)
        pq.write_table(rows, file, row_group_size=50)
        put(file, f"{bucket}/log/{file.relative_to(log)}")
    monkeypatch.setattr(part_job, "PART_ROWS", 60)
    monkeypatch.setattr(part_job, "SMALL_ROWS", 60)
    job = Job.of(remote)
    assert len(job.log) == 5
    for stage in STAGES[:-1]:
        for part in range(job.parts(stage)):
            parts.run_part(job, stage, part, "200MB")
    parts.finish(job, "200MB", lambda line: None)
    assert (bytes_in(found), rejects_in(found, f"{bucket}/log")) == expected


def test_the_day_s_log_and_new_items_in_a_bucket(copied_state, bucket):
    folder, workdir, snapshots = copied_state
    log = write_log(folder, of_days(ROWS, TRAINED, TRAINED + 1), TRAINED)
    items = write_items(folder / "new.parquet", 22)
    job = {"date": day(TRAINED), "dtype": "float32"}
    shutil.copytree(snapshots, folder / "other", symlinks=True)
    here = publish(workdir, snapshots, events=(log,), items=Path(items), **job)
    there = publish(
        workdir, folder / "other",
        events=(put(log, f"{bucket}/days/{TRAINED}.parquet").replace(".parquet", ".*"),),
        items=put(items, f"{bucket}/new.parquet"), **job,
    )  # fmt: skip
    assert here == there
    assert contents(snapshots / here) == contents(folder / "other" / there)


def test_a_file_that_changes_is_told(tmp_path, bucket):
    config, remote, _ = of_both(tmp_path, bucket)
    old, seen = Job.of(remote), Unchanged()
    assert Job.of(remote) == old
    seen.watch(*find("x", f"{bucket}/log/z.csv.gz"))
    seen.check()
    put(config.items.table, f"{bucket}/log/z.csv.gz")
    assert Job.of(remote).work != old.work
    with pytest.raises(ValueError, match=r"bucket/log/z.csv.gz: changed while this process was reading it"):
        seen.check()
    fsspec.url_to_fs(bucket)[0].rm(f"{bucket}/log/z.csv.gz")
    with pytest.raises(ValueError, match="changed while"):
        seen.check()


def test_a_copy_of_csv_does_not_stay(tmp_path, bucket):
    of_both(tmp_path, bucket)
    with duckdb.connect() as connection:
        open_log(connection, "log", "data.events", [f"{bucket}/log/z.csv.gz"], tmp_path / "work")
        assert connection.execute("SELECT count(*) FROM log").fetchall() == [(162,)]
    assert [file.name for file in (tmp_path / "work").iterdir()] == ["00000.parquet"]


def test_what_cannot_be_read_is_named(tmp_path, bucket):
    config, remote, _ = of_both(tmp_path, bucket)

    def refused(kind, pattern, text, **data):
        wrong = dataclasses.replace(remote, data=dataclasses.replace(remote.data, events=(pattern,), **data))
        with pytest.raises(kind, match=text):
            prepare(wrong, lambda line: None)

    refused(FileNotFoundError, f"{bucket}/x/*.csv", r"data.events = '.*bucket/x/\*.csv': no such file")
    refused(ValueError, f"{bucket}/log", r"/log' is a folder: write .*bucket/log/\*.parquet")
    refused(ValueError, put(config.items.table, f"{bucket}/a.txt"), "bucket/a.txt is of no known kind")
    refused(ValueError, put(__file__, f"{bucket}/a.parquet"), "data.events: .*/a.parquet cannot be read")
    whole = (tmp_path / "log" / "day=0" / "p[1].parquet").read_bytes()
    (tmp_path / "cut").write_bytes(b"\0" * 2000 + whole[2000:])
    damaged = put(tmp_path / "cut", f"{bucket}/day=1/b.parquet")
    refused(ValueError, damaged, "day=1/b.parquet cannot be read, it was changed, removed or damaged: ")
    refused(ValueError, "nothing://bucket/x.csv", "needs another package|Protocol not known: nothing")
    assert not Path(config.data.prepared).exists()


@pytest.mark.parametrize(
    ("name", "fine", "text"),
    [
        ("z.csv.gz", 1, r"data.events: memory:///bucket/log/z.csv.gz cannot be read: "),
        ("*/*.parquet", 8, "data.events: the files cannot be read together: RuntimeError"),
    ],
)
def test_a_store_that_fails_in_the_middle_is_one_line(tmp_path, monkeypatch, name, fine, text):
    """Whatever its client raises."""
    config, _, _ = of_both(tmp_path, "memory:///bucket")
    data = dataclasses.replace(config.data, events=(f"memory:///bucket/log/{name}",))
    file_of_store = fsspec.implementations.memory.MemoryFile
    real, reads = file_of_store.read, iter(range(10**6))

    def read(self, *size):
        if next(reads) >= fine:
            raise RuntimeError("the line is dead")
        return real(self, *size)

    monkeypatch.setattr(file_of_store, "read", read)
    with pytest.raises(ValueError, match=rf"{text}.*the line is dead") as error:
        prepare(dataclasses.replace(config, data=data), lambda line: None)
    assert "\n" not in str(error.value)


@NO_S3
def test_s3_without_credentials_and_without_a_server(tmp_path, s3, monkeypatch):
    config = given(tmp_path, events=(f"{s3}/log/*.parquet",))

    def refused(text):
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        with pytest.raises((ValueError, FileNotFoundError), match=text) as error:
            prepare(config, lambda line: None)
        assert "\n" not in str(error.value)

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    refused(r"data.events = 's3://bucket/log/\*.parquet' cannot be read: .* AWS_ENDPOINT_URL")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    refused(r"data.events = 's3://bucket/log/\*.parquet' cannot be read: .*AWS_ACCESS_KEY_ID")


@pytest.mark.skipif(bool(find_spec("s3fs")), reason="s3fs is installed")
def test_without_s3fs_one_line_says_what_to_install(tmp_path):
    config = given(tmp_path, events=("s3://bucket/log/*.parquet",))
    with pytest.raises(ValueError, match=r"data.events = .* pip install 'pinnerformer_jax\[s3\]'"):
        prepare(config, lambda line: None)
