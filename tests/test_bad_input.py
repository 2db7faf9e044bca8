"""Bad settings and inputs on the command lines: code 2, one message that names the setting or the file, no
traceback, and an end within seconds."""

import contextlib
import dataclasses
import importlib
import io
import os
import shutil
import subprocess
import sys
import time
import traceback
import typing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from daily_run import TRAINED, day

from pinnerformer_jax import embed, evaluate, ingest, recommend, train
from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.training.run_record import read_record

pytestmark = pytest.mark.slow

SECONDS = 10


@pytest.fixture(scope="module")
def world(first_state, tmp_path_factory):
    """A folder with a run, its states and its prepared data, and files that are no good for anything."""
    _, workdir, snapshots = first_state
    folder = tmp_path_factory.mktemp("bad-input")
    shutil.copytree(workdir, folder / "run")
    shutil.copytree(snapshots, folder / "snapshots")
    config = read_record(workdir).config
    (folder / "good.py").write_text(
        f"from pinnerformer_jax.config_files import from_dict\nconfig = from_dict({to_dict(config)!r})\n"
    )
    study = "from pinnerformer_jax.studies import study_tables\ntables = (study_tables.negatives(),)\n"
    (folder / "study.py").write_text((folder / "good.py").read_text() + study)
    for name, text in CONFIGS.items():
        (folder / name).write_text(text)
    (folder / "folder").mkdir()
    (folder / "file").write_text("some text\n")
    (folder / "empty.csv").write_text("")
    (folder / "header.csv").write_text("user,item,time,action,surface,duration\n")
    (folder / "no.parquet").write_text("this is no Parquet file")
    (folder / "latin.txt").write_bytes("müller\n".encode("latin-1"))
    (folder / "empty.parquet").write_bytes(b"")
    pq.write_table(pa.table({"a": [1]}), folder / "other.parquet")
    return folder


CONFIGS = {
    "syntax.py": "config = Config(\n",
    "import.py": "import no_such_module\n",
    "field.py": "from pinnerformer_jax.config import *\nconfig = Config(model=ModelConfig(widht=3))\n",
    "section.py": "from pinnerformer_jax.config import *\nconfig = Config(model={'width': 3})\n",
    "kind.py": "from pinnerformer_jax.config import *\nconfig = Config(data=DataConfig(shards='four'))\n",
    "none.py": "x = 1\n",
    "bytes.py": "\0",
}


def numbers(section, prefix=""):
    """Names and types of all settings that are numbers."""
    kinds = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(kinds[field.name]):
            yield from numbers(kinds[field.name], f"{prefix}{field.name}.")
        elif kinds[field.name] in (int, float):
            yield f"{prefix}{field.name}", kinds[field.name]


# Of these 1e30 is a number like any other.
UNBOUNDED = ("rate", "weight_decay", "clip_norm", "initial_temperature", "pinsage.temperature", "margin")


def bad_numbers():
    for name, kind in numbers(Config):
        yield name, "-1"
        yield name, "abc"
        yield name, "nan" if kind is float else "1.5"
        if not name.endswith(UNBOUNDED):
            yield name, "1" + "0" * 30


def run(verb, arguments, folder):
    """Code, output and seconds of a verb in this process."""
    output, started = io.StringIO(), time.monotonic()
    with contextlib.chdir(folder), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            code = verb.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = traceback.format_exc()
    return code, output.getvalue(), time.monotonic() - started


def faults(code, output, seconds, name):
    """What is wrong with the end of a verb; empty: nothing."""
    words = "".join(output.split())  # messages in a box are wrapped
    wrong = [] if code == 2 else [f"code {code}"]
    if name.replace(" ", "") not in words.replace("│", ""):
        wrong.append(f"does not name {name}: {output[-500:]}")
    if "Traceback" in output:
        wrong.append(output[-1000:])
    if seconds > SECONDS:
        wrong.append(f"took {seconds:.0f} s")
    return wrong


def test_numbers_out_of_range(world):
    wrong, cases = {}, list(bad_numbers())
    assert len(cases) > 200
    for name, value in cases:
        end = run(ingest, ["--config", "good.py", f"--{name}", value], world)
        field = name.rpartition(".")[2]
        option = field.replace("_", "-")
        fault = faults(*end, option if option in end[1] else field)
        if fault:
            wrong[name, value] = fault
    assert not wrong, "\n".join(f"{case}: {fault}" for case, fault in wrong.items())


RUN = ["--workdir", "run", "--snapshots", "snapshots"]
CONFIG = ["--config", "good.py"]
DAY = day(TRAINED)
HUGE_BATCH = ["--training.batch-size", "16777216", "--training.future-events", "65536"]
INPUTS = [
    *[("ingest", ["--config", name], name) for name in (*CONFIGS, "missing.py", "folder", "no.parquet")],
    *[
        ("ingest", [*CONFIG, *setting], name)
        for setting, name in [
            (["--data.events", "missing.parquet"], "missing.parquet"),
            (["--data.events", "folder"], "folder"),
            (["--data.events", "file"], "file"),
            (["--data.events", "empty.csv"], "empty.csv"),
            (["--data.events", "header.csv"], "empty"),
            (["--data.events", "no.parquet"], "no.parquet"),
            (["--data.events", "empty.parquet"], "empty.parquet"),
            (["--data.events", "other.parquet"], "data.columns"),
            (["--data.events"], "data.events"),
            (["--data.prepared", "file"], "file"),
            (["--data.prepared", ""], "data.prepared"),
            (["--data.prepared", "file/below"], "file"),
            (["--data.columns.user", "usr"], "data.columns.user"),
            (["--data.columns.user", ""], "data.columns.user"),
            (["--data.columns.item", "1"], "data.columns.item"),
            (["--data.columns.time", "action"], "unparsable time"),
            (["--data.columns.duration", "nope + 1"], "data.columns.duration"),
            (["--data.columns.action", "'; DROP TABLE x"], "data.columns.action"),
            (["--data.where", "true) , 1 FROM log; COPY (SELECT 1) TO 'x.csv'; SELECT (1"], "data.where"),
            (["--data.where", "user ="], "data.where"),
            (["--data.where", "(SELECT count(*) FROM read_csv('/etc/passwd')) > 0"], "data.where"),
            (["--data.time-unit", "h"], "data.time-unit"),
            (["--data.time-zone", "Mars/Base"], "data.time_zone"),
            (["--data.time-min", "yesterday"], "data.time_min"),
            (["--data.time-max", "2026-02-30"], "data.time_max"),
            (["--data.split-time", "soon"], "data.split_time"),
            (["--data.split-time", "1990-01-01"], "data.split_time"),
            (["--data.split-time", "2050-01-01"], "data.split_time"),
            (["--data.memory-limit", "much"], "data.memory_limit"),
            (["--data.memory-limit", "-1GB"], "data.memory_limit"),
            (["--data.positives.0.action", "nope"], "data.positives"),
            (["--data.sequence-actions", "nope"], "data.sequence_actions"),
            (["--data.csv.delimiter", "ab"], "csv.delimiter"),
            *[(["--data.csv.encoding", name], "csv.encoding") for name in ("latin-99", "zip", "hex", "")],
            (["--data.min-user-events", "100000"], "data.min_user_events"),
            (["--items.table", "missing.parquet"], "missing.parquet"),
            (["--items.table", "no.parquet"], "no.parquet"),
            (["--items.table", "other.parquet"], "items."),
            (["--items.id", "nope"], "items.id"),
            (["--items.vector", "title"], "items.vector"),
            (["--items.title", "nope"], "items.title"),
            (["--items.text", "nope"], "items.text"),
            (["--model.attention", "flash"], "model.attention"),
            (["--model.drop-features", "items"], "model.drop-features"),
            (["--objective.name", "bert"], "objective.name"),
            (["--evaluation.cutoffs", "0"], "evaluation.cutoffs"),
            (["--evaluation.cutoffs", "ten"], "evaluation.cutoffs"),
            (["--evaluation.cutoffs", "10", "100000000"], "evaluation.cutoffs"),
            (["--dta.events", "x"], "--dta.events"),
            (["--help-me"], "--help-me"),
        ]
    ],
    *[
        ("train", arguments, name)
        for arguments, name in [
            (CONFIG, "--workdir"),
            ([*CONFIG, "--workdir", "file"], "file"),
            ([*CONFIG, "--workdir", "file/below"], "file"),
            ([*CONFIG, "--workdir", "new", "--data.prepared", "missing"], "missing"),
            ([*CONFIG, "--workdir", "new", "--data.prepared", "file"], "file"),
            ([*CONFIG, "--workdir", "new", "--data.prepared", "folder"], "folder"),
            ([*CONFIG, "--workdir", "new[1]"], "new[1]"),
            ([*CONFIG, "--workdir", "new", "--training.batch-size", "7"], "training.batch_size"),
            ([*CONFIG, "--workdir", "new", "--data.min-user-events", "3"], "data.min_user_events"),
            (
                [*CONFIG, "--workdir", "new", "--model.width", "65536", "--model.layers", "12"],
                "lower model.width",
            ),
            (
                [*CONFIG, "--workdir", "new", *HUGE_BATCH],
                "training.batch_size",
            ),
            ([*CONFIG, "--workdir", "run", "--model.width", "32"], "model.width"),
            ([*CONFIG, "--workdir", "new", "--training.deterministic"], "training.deterministic"),
            ([*CONFIG, "--workdir", "new", "--objective.target-actions", "nope"], "objective.target_actions"),
        ]
    ],
    *[
        ("evaluate", arguments, name)
        for arguments, name in [
            ([], "--workdir"),
            (["--workdir", "missing"], "missing"),
            (["--workdir", "file"], "file"),
            (["--workdir", "folder"], "folder"),
            (["--workdir", "run", "--checkpoint", "first"], "--checkpoint"),
            (["--workdir", "run", "--model.width", "8"], "--model.width"),
            (["--workdir", "run", "--evaluation.cutoffs", "-1"], "evaluation.cutoffs"),
        ]
    ],
    *[
        ("items", [*CONFIG, *arguments], name)
        for arguments, name in [
            ([], "--method"),
            (["--method", "word2vec"], "--method"),
            (["--method", "text", "--out", "file"], "file"),
            (["--method", "text", "--out", "folder"], "folder"),
            (["--method", "text", "--reuse", "missing"], "--reuse"),
            (["--method", "pinsage", "--reuse", "missing"], "missing"),
            (["--method", "text", "--data.prepared", "missing"], "missing"),
        ]
    ],
    *[
        ("embed", arguments, name)
        for arguments, name in [
            (["--snapshots", "snapshots"], "--workdir"),
            (["--workdir", "run"], "--snapshots"),
            (["--workdir", "missing", "--snapshots", "snapshots"], "missing"),
            (["--workdir", "file", "--snapshots", "snapshots"], "file"),
            (["--workdir", "run", "--snapshots", "file"], "file"),
            *[
                ([*RUN, "--date", date, "--events", "other.parquet"], "--date")
                for date in ("yesterday", "2026-02-30", "9999-12-31", "0001-01-01", "2026", "")
            ],
            *[
                ([*RUN, "--date", DAY, "--events", name], name)
                for name in ("missing.parquet", "folder", "file", "no.parquet", "empty.parquet", "empty.csv")
            ],
            ([*RUN, "--date", DAY, "--events", "other.parquet"], "data.columns.user"),
            *[
                ([*RUN, "--date", DAY, option, name], name)
                for option in ("--users", "--tombstones", "--items")
                for name in ("missing.txt", "folder", "latin.txt", "no.parquet")
                if (option, name) not in {("--users", "no.parquet"), ("--tombstones", "no.parquet")}
            ],
            ([*RUN, "--date", DAY, "--tombstones", "file", "--strict"], "some text"),
            *[
                ([*RUN, "--date", DAY, "--store", url], name)
                for url, name in [
                    ("mysql://x", "--store"), ("lmdb:", "--store"), ("vectors", "--store"),
                    ("redis://h:port", "--store"), ("redis://127.0.0.1:1", "127.0.0.1:1"),
                    ("redis://127.0.0.1/0?nope=1", "nope"), ("lmdb:file", "file"), ("unix:///nope", "/nope"),
                ]
            ],
            *[([*RUN, "--keep", keep], "--keep") for keep in ("0", "-1", "1", "many", "1.5")],
            *[([*RUN, "--max-reject-share", share], "reject") for share in ("2", "-1", "all")],
            ([*RUN, "--dtype", "float8"], "--dtype"),
            ([*RUN, "--checkpoint", "first"], "--checkpoint"),
            *[
                (["--snapshots", "snapshots", "--rollback", state], "--rollback")
                for state in ("yesterday", "../run", "model_version=x/ds=y/run=z", "/etc")
            ],
            (["--snapshots", "missing", "--rollback"], "missing"),
        ]
    ],
    *[
        ("recommend", arguments, name)
        for arguments, name in [
            (["--snapshots", "snapshots"], "--user"),
            (["--user", "u001"], "--snapshots"),
            (["--snapshots", "missing", "--user", "u001"], "missing"),
            (["--snapshots", "file", "--user", "u001"], "file"),
            (["--snapshots", "folder", "--user", "u001"], "folder"),
            *[
                (["--snapshots", "snapshots", "--user", "u001", "-k", k], "k")
                for k in ("0", "-1", "ten", "1.5")
            ],
            (["--snapshots", "snapshots", "--user", "u001", "--store", "lmdb:missing"], "missing"),
            (["--snapshots", "snapshots", "--user", "u001", "--store", "mysql://x"], "--store"),
        ]
    ],
    *[
        ("study", ["--config", "study.py", *arguments], name)
        for arguments, name in [
            (["--seeds", "0"], "seeds"),
            (["--seeds", "many"], "--seeds"),
            (["--only", "nope"], "nope"),
            (["--workdir", "file"], "file"),
            (["--workdir", "new", "--data.prepared", "missing"], "missing"),
        ]
    ],
    *[
        ("compare_items", [*CONFIG, *arguments], name)
        for arguments, name in [
            (["--seeds", "0"], "--seeds"),
            (["--methods", "word2vec"], "--methods"),
            (["--workdir", "file", "--methods", "text"], "file"),
            (["--data.prepared", "missing"], "missing"),
        ]
    ],
    *[
        ("replay", ["--workdir", "run", *arguments], name)
        for arguments, name in [
            (["--out", "out"], "--first"),
            (["--out", "out", "--first", "soon"], "soon"),
            (["--out", "out", "--first", DAY, "--days", "0"], "--days"),
            (["--out", "out", "--first", DAY, "--horizon", "-1"], "--horizon"),
            (["--out", "file", "--first", DAY], "file"),
            (["--out", "out", "--first", DAY, "--events", "missing.csv"], "missing.csv"),
        ]
    ],
    *[
        ("publish_tfds", arguments, name)
        for arguments, name in [
            ([], "--prepared"),
            (["--prepared", "missing", "--data-dir", "tfds"], "missing"),
        ]
    ],
    *[
        ("synthetic", ["--out", "made", *arguments], name)
        for arguments, name in [
            (["--users", "-1"], "users"),
            (["--users", "many"], "users"),
            (["--seed", "-1"], "seed"),
            (["--nope", "1"], "--nope"),
        ]
    ],
]  # fmt: skip


def verb(name):
    return importlib.import_module(f"pinnerformer_jax.{name}" + (".__main__" if name == "items" else ""))


@pytest.mark.parametrize("name", sorted({name for name, *_ in INPUTS}))
def test_inputs(world, monkeypatch, name):
    for module in (embed, evaluate, train):
        monkeypatch.setattr(module, "set_up_process", lambda: None)
    before = (world / "run/config.json").read_bytes()
    wrong = {}
    for of_verb, arguments, told in INPUTS:
        if of_verb == name:
            fault = faults(*run(verb(name), arguments, world), told)
            if fault:
                wrong[" ".join(arguments)] = fault
    assert not wrong, "\n".join(f"{case}: {fault}" for case, fault in wrong.items())
    assert (world / "run/config.json").read_bytes() == before
    assert recommend.main(["--snapshots", str(world / "snapshots"), "--user", "u001"]) == 0
    assert not np.any([(world / made).exists() for made in ("x.csv", "out", "made", "tfds")])


@pytest.mark.parametrize("k", range(0, len(INPUTS), len(INPUTS) // 9))
def test_inputs_in_processes_of_their_own(world, k):
    name, arguments, told = INPUTS[k]
    command = [sys.executable, "-m", f"pinnerformer_jax.{name}", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        command, cwd=world, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert not faults(done.returncode, done.stdout + done.stderr, 0, told)
