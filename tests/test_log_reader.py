"""Files of a log: every kind is read, and every row knows where it came from."""

import gzip
import os
import subprocess
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinnerformer_jax.config import CsvConfig
from pinnerformer_jax.ingestion import tfds_in
from pinnerformer_jax.ingestion.log_reader import BROKEN, FILE, ROW, open_log, parquet_files, restrict

HEADER = "user,item,time\n"
LONG = "x" * 3_000_000  # more than either reader takes for one line


@pytest.fixture
def connection():
    with duckdb.connect() as connection:
        yield connection


def read(connection, tmp_path, *patterns):
    """(file, row, broken, the columns...) of every row, in order."""
    open_log(connection, "log", "data.events", patterns, tmp_path / "work")
    columns = [name for (name, *_) in connection.execute("DESCRIBE log").fetchall()]
    assert columns[:3] == [FILE, ROW, BROKEN]
    return connection.execute(f"FROM log ORDER BY {FILE}, {ROW}").fetchall()


def write_csv(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def test_parquet_rows_are_numbered_from_1_in_each_file(connection, tmp_path):
    for name, users in (("a", [1, 2]), ("b", [3])):
        pq.write_table(pa.table({"user": users}), tmp_path / f"{name}.parquet")
    rows = read(connection, tmp_path, str(tmp_path / "*.parquet"))
    a, b = str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")
    assert rows == [(a, 1, None, 1), (a, 2, None, 2), (b, 1, None, 3)]


def test_a_file_that_two_patterns_name_is_read_once(connection, tmp_path):
    file = write_csv(tmp_path / "a.csv", HEADER + "u,i,1\n")
    assert len(read(connection, tmp_path, file, str(tmp_path / "*.csv"))) == 1


def test_columns_are_matched_by_name_over_files(connection, tmp_path):
    pq.write_table(pa.table({"user": [1], "item": [2]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"item": [3], "extra": [4], "user": [5]}), tmp_path / "b.parquet")
    rows = read(connection, tmp_path, str(tmp_path / "*.parquet"))
    assert [row[3:] for row in rows] == [(1, 2, None), (5, 3, 4)]


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.tsv", "LOG.CSV"])
def test_csv_is_text_and_rows_are_lines(connection, tmp_path, name):
    text = HEADER + '007,"a, ""b""",1.50\n,é中,\n'
    if name.endswith(".tsv"):
        text = text.replace('"a, ""b"""', "A").replace(",", "\t").replace("A", '"a, ""b"""')
    file = write_csv(tmp_path / name, text)
    rows = read(connection, tmp_path, file)
    assert rows == [(file, 2, None, "007", 'a, "b"', "1.50"), (file, 3, None, None, "é中", None)]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + HEADER + "u,i,1\n",
        HEADER.replace("\n", "\r\n") + "u,i,1\r\n",
        HEADER + "u,i,1",
        HEADER.replace(",", ";") + "u;i;1\n",
        HEADER.replace(",", "|") + "u|i|1\n",
        HEADER + '"u","i","1"\n',
    ],
    ids=["byte order mark", "CRLF", "no last newline", "semicolon", "bar", "quoted"],
)
def test_csv_dialects(connection, tmp_path, text):
    file = write_csv(tmp_path / "log.csv", text)
    assert read(connection, tmp_path, file) == [(file, 2, None, "u", "i", "1")]
    assert [c[0] for c in connection.execute("DESCRIBE log").fetchall()][3:] == ["user", "item", "time"]


@pytest.mark.parametrize(
    ("text", "names", "line"),
    [
        ('user;item;"note, etc, and, more"\nu;i;1\n', ["user", "item", "note, etc, and, more"], 2),
        ('"a,b,c"\titem\ttime\nu\ti\t1\n', ["a,b,c", "item", "time"], 2),
        ('user,"the\nitem",time\nu,i,1\n', ["user", "the\nitem", "time"], 3),
        ('"the\nuser";item;time\nu;i;1\n', ["the\nuser", "item", "time"], 3),
        ('user,item 6",time\nu,i,1\n', ["user", 'item 6"', "time"], 2),
        ('user,"say ""it""",time\nu,i,1\n', ["user", 'say "it"', "time"], 2),
        ("user\r1\r", ["user"], 2),
    ],
)
@pytest.mark.parametrize("slowly", [False, True])
def test_the_header_is_a_record(connection, tmp_path, text, names, line, slowly):
    end = "\r" if text.endswith("\r") else "\n"
    extra = '"broken' + end if slowly else ""
    file = write_csv(tmp_path / "log.csv", text + extra)
    rows = read(connection, tmp_path, file)
    assert [c[0] for c in connection.execute("DESCRIBE log").fetchall()][3:] == names
    assert rows[0][:4] == (file, line, None, "1" if len(names) == 1 else "u")
    assert [row[:3] for row in rows[1:]] == [(file, line + 1, '"broken')] * slowly


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
@pytest.mark.parametrize("slowly", [False, True])
@pytest.mark.parametrize(
    ("encoding", "end"),
    [
        ("latin-1", "\n"),
        ("cp1252", "\r\n"),
        ("utf-16", "\n"),
        ("utf-16-le", "\r"),
        ("utf-8", "\r"),
        ("ascii", "\r"),
    ],
)
def test_encodings_and_line_ends(connection, tmp_path, suffix, slowly, encoding, end):
    letter = "e" if encoding == "ascii" else "é"
    lines = ["user,item", f"{letter},1", f'"a,{letter}",2'] + ["x,y,z"] * slowly
    path = tmp_path / f"log{suffix}"
    data = "".join(line + end for line in lines).encode(encoding)
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    open_log(connection, "log", "data.events", [str(path)], tmp_path / "work", CsvConfig(encoding=encoding))
    rows = connection.execute(f"SELECT * EXCLUDE ({FILE}) FROM log ORDER BY {ROW}").fetchall()
    assert rows[:2] == [(2, None, letter, "1"), (3, None, f"a,{letter}", "2")]
    assert rows[2:] == [(4, "x,y,z", None, None)] * slowly


def test_a_byte_that_the_encoding_has_not(connection, tmp_path):
    file = write_csv(tmp_path / "log.csv", b"user,item\nu,\x81\n")
    with pytest.raises(ValueError, match=r"log\.csv cannot be read: byte 12 is not cp1252"):
        open_log(connection, "log", "data.events", [file], tmp_path / "work", CsvConfig(encoding="cp1252"))


def test_a_delimiter_that_is_given(connection, tmp_path):
    file = write_csv(tmp_path / "log.csv", "user~a,b,c\n1~2\n")
    open_log(connection, "log", "data.events", [file], tmp_path / "work", CsvConfig(delimiter="~"))
    assert connection.execute('SELECT user, "a,b,c" FROM log').fetchall() == [("1", "2")]


@pytest.mark.parametrize("length", [140_000, 2_000_000])
@pytest.mark.parametrize("text", ["x", "one\nmore"])
def test_a_long_value_is_no_broken_line(connection, tmp_path, length, text):
    file = write_csv(tmp_path / "log.csv", HEADER + f'u,i,"{text}"\nu,i,{"y" * length}\n')
    assert [(r[2], len(r[5])) for r in read(connection, tmp_path, file)] == [
        (None, len(text)),
        (None, length),
    ]


def test_names_that_differ_in_case_alone(connection, tmp_path):
    pq.write_table(pa.table([[1], [2]], names=["User", "user"]), tmp_path / "a.parquet")
    write_csv(tmp_path / "b.csv", "User,user\n1,2\n")
    for file in ("a.parquet", "b.csv"):
        read(connection, tmp_path, str(tmp_path / file))
        described = connection.execute("DESCRIBE log").fetchall()
        assert [c[0] for c in described][3:] == ["User", "user_1"]
        connection.execute("DROP VIEW log")
    pq.write_table(pa.table([[1], [2]], names=["user", "User"]), tmp_path / "c.parquet")
    with pytest.raises(
        ValueError, match=r"\['User', 'user'\] in .*a.parquet, \['user', 'User'\] in .*c.parquet; ren"
    ):
        read(connection, tmp_path, str(tmp_path / "*.parquet"))


def test_a_header_without_a_name_is_numbered(connection, tmp_path):
    file = write_csv(tmp_path / "log.csv", ",user\n0,u\n")  # as pandas writes an index
    assert read(connection, tmp_path, file) == [(file, 2, None, "0", "u")]
    assert connection.execute("SELECT column0 FROM log").fetchall() == [("0",)]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
@pytest.mark.parametrize(
    "broken",
    ["u2,i2", "u2,i2,2,3", 'u2,"i2,2', 'u2,"i2"x,2', b"u2,\xff\xfe,2", f"u2,{LONG},2"],
    ids=["too few", "too many", "quote never closes", "text after a quote", "no UTF-8", "too long"],
)
def test_only_the_broken_line_is_lost(connection, tmp_path, suffix, broken):
    broken = broken if isinstance(broken, bytes) else broken.encode()
    lines = [b"u%d,i,1" % k for k in range(10_000)]
    lines[5_000] = broken
    file = write_csv(tmp_path / f"log{suffix}", HEADER.encode() + b"\n".join(lines) + b"\n")
    rows = read(connection, tmp_path, file)
    assert [row[1] for row in rows] == list(range(2, 10_002))
    text = broken.decode(errors="replace")
    place = len(HEADER) + sum(len(line) + 1 for line in lines[:5_000]) + 3
    text = f"byte {place} is not UTF-8: {text}" if "\ufffd" in text else text
    text = text[:10_000] + "..." if len(text) > 10_000 else text
    assert [row for row in rows if row[2] is not None] == [(file, 5_002, text, None, None, None)]
    assert [row[3:] for row in rows if row[2] is None] == [
        (f"u{k}", "i", "1") for k in range(10_000) if k != 5_000
    ]


def test_values_over_several_lines_and_blank_lines(connection, tmp_path):
    file = write_csv(tmp_path / "log.csv", HEADER + 'u1,"two\nlines",1\n\nu2,i2,2\nu3\n')
    rows = read(connection, tmp_path, file)
    assert rows == [
        (file, 2, None, "u1", "two\nlines", "1"),
        (file, 5, None, "u2", "i2", "2"),
        (file, 6, "u3", None, None, None),
    ]


def test_csv_and_parquet_together(connection, tmp_path):
    pq.write_table(pa.table({"user": ["p"], "item": ["i"]}), tmp_path / "a.parquet")
    write_csv(tmp_path / "b.csv", HEADER + "c,i,1\n")
    rows = read(connection, tmp_path, str(tmp_path / "a.parquet"), str(tmp_path / "b.csv"))
    assert [row[3:] for row in rows] == [("p", "i", None), ("c", "i", "1")]


@pytest.mark.parametrize(
    ("pattern", "name", "split"),
    [
        ("tfds:movielens/1m-ratings", "movielens/1m-ratings", ""),
        ("tfds:movielens/1m-ratings:train[:10%]", "movielens/1m-ratings", "train[:10%]"),
        ("tfds:movielens/1m-ratings:0.1.1:train", "movielens/1m-ratings:0.1.1", "train"),
    ],
)
def test_tfds_names(connection, tmp_path, monkeypatch, pattern, name, split):
    def export(*asked):
        assert asked == (name, split, tmp_path / "work")
        pq.write_table(pa.table({"user": [7]}), tmp_path / "work" / "rows.parquet")
        return tmp_path / "work" / "rows.parquet"

    monkeypatch.setattr(tfds_in, "export", export)
    assert [row[3:] for row in read(connection, tmp_path, pattern)] == [(7,)]


def bad_parquet(path, cut):
    pq.write_table(pa.table({"user": list(range(10_000))}), path)
    path.write_bytes(path.read_bytes()[:cut])
    return str(path)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: [], ValueError, "data.events is empty: name Parquet or CSV files"),
        (lambda d: [f"{d}/none.parquet"], FileNotFoundError, "none.parquet': no such file"),
        (lambda d: [f"{d}/*.csv"], FileNotFoundError, r"\*.csv': no such file"),
        (lambda d: [str(d)], ValueError, r"is a folder: write .*/\*.parquet"),
        (lambda d: [write_csv(d / "log.json", "{}")], ValueError, "log.json is of no known kind"),
        (lambda d: [write_csv(d / "a.parquet", "user")], ValueError, "a.parquet"),
        (lambda d: [bad_parquet(d / "b.parquet", 2_000)], ValueError, "b.parquet"),
        (lambda d: [write_csv(d / "a.csv", "")], ValueError, "a.csv cannot be read: .* header"),
        (lambda d: [write_csv(d / "a.csv", "\nu,i\n")], ValueError, "a.csv cannot be read: .* header"),
        (lambda d: [write_csv(d / "a.csv", b"us\xff,i\n1,2\n")], ValueError,
         "a.csv cannot be read: byte 2 is not UTF-8: set data.csv.encoding"),
        (lambda d: [write_csv(d / "a.csv", "user,user\n1,2\n")], ValueError, "a.csv .* names 'user' twice"),
        (lambda d: [write_csv(d / "a.csv", f"user,{LONG}\n1,2\n")], ValueError, "a.csv .* line 1 is longer"),
        (lambda d: [str((d / "a.csv").rename(d / "a.csv.gz"))], ValueError, "a.csv.gz cannot .* gzip"),
        (lambda d: [str(cut_gz(d / "b.csv.gz"))], ValueError, "b.csv.gz cannot be read"),
        (lambda d: ["tfds:"], ValueError, "write tfds:NAME or tfds:NAME:SPLIT"),
    ],
)  # fmt: skip
def test_unreadable_logs(connection, tmp_path, make, error, message):
    if "rename" in make.__code__.co_names:
        write_csv(tmp_path / "a.csv", HEADER + "u,i,1\n")
    with pytest.raises(error, match=message):
        read(connection, tmp_path, *make(tmp_path))


def cut_gz(path):
    write_csv(path, HEADER + "".join(f"u{k * 7919 % 10_007},i,{k}\n" for k in range(20_000)))
    path.write_bytes(path.read_bytes()[:-5_000])
    return path


@pytest.mark.parametrize("name", ["log[1]", "a*", "b?", "[!c]", "d[e"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz", ".tsv"])
def test_a_name_with_signs_of_a_pattern_is_a_name(connection, tmp_path, name, suffix):
    """Beside it lies a file that the name would match as a pattern, and its folder has such a name too."""
    folder = tmp_path / name
    folder.mkdir()
    for file in (name, "log1", "ab", "bb", "d"):
        if suffix == ".parquet":
            pq.write_table(pa.table({"user": [file]}), folder / f"{file}{suffix}")
        else:
            write_csv(folder / f"{file}{suffix}", f"user\n{file}\n")
    path = str(folder / f"{name}{suffix}")
    [(file, *_, user)] = read(connection, tmp_path / name, path)
    assert (file, user) == (path, name)


def test_a_backslash_beside_a_sign_of_a_pattern_is_refused(connection, tmp_path):
    pq.write_table(pa.table({"user": ["a"]}), tmp_path / "a\\[1].parquet")
    with pytest.raises(ValueError, match=r"backslash beside any of .* rename it"):
        read(connection, tmp_path, str(tmp_path / "a\\[1].parquet"))


@pytest.mark.parametrize("kind", ["parquet", "csv", "broken.csv"])
def test_a_folder_gives_a_column_only_where_the_files_have_none(connection, tmp_path, kind):
    for day, user in (("2024-01-01", "a"), ("2024-01-02", "b")):
        folder = tmp_path / f"Time={day}" / "shop=007" / "n=12" / "of=__HIVE_DEFAULT_PARTITION__" / f"d={day}"
        folder.mkdir(parents=True)
        if kind == "parquet":
            pq.write_table(pa.table({"user": [user], "time": [f"{day} 10:00"]}), folder / f"x.{kind}")
        else:  # the last one is read by the slow reader
            write_csv(folder / f"x.{kind}", f"user,time\n{user},{day} 10:00\n" + "z\n" * (kind != "csv"))
    open_log(connection, "log", "data.events", [f"{tmp_path}/Time=*/**/*.{kind}"], tmp_path / "work")
    query = "SELECT user, time, shop, n, of, CAST(d AS VARCHAR), typeof(d) FROM log WHERE user IS NOT NULL"
    assert connection.execute(f"{query} ORDER BY ALL").fetchall() == [
        ("a", "2024-01-01 10:00", "007", 12, None, "2024-01-01", "DATE"),
        ("b", "2024-01-02 10:00", "007", 12, None, "2024-01-02", "DATE"),
    ]


def test_a_folder_gives_no_column_to_a_log_that_has_it_in_another_file(connection, tmp_path):
    (tmp_path / "shop=1").mkdir()
    pq.write_table(pa.table({"user": ["a"]}), tmp_path / "shop=1" / "x.parquet")
    pq.write_table(pa.table({"user": ["b"], "shop": ["s"]}), tmp_path / "y.parquet")
    rows = read(connection, tmp_path, str(tmp_path / "shop=1" / "x.parquet"), str(tmp_path / "y.parquet"))
    assert [row[3:] for row in rows] == [("a", None), ("b", "s")]


def test_columns_named_like_the_engines_are_the_logs(connection, tmp_path):
    names = ["__file", "__row", "__broken", "__in_scope", "filename", "file_row_number", "file_index", "file"]
    for file in ("a", "b"):
        pq.write_table(
            pa.table({name: [f"{file} {name}"] * 2 for name in names}), tmp_path / f"{file}.parquet"
        )
    rows = read(connection, tmp_path, str(tmp_path / "*.parquet"))
    assert [row[:3] for row in rows] == [
        (str(tmp_path / f"{file}.parquet"), number, None) for file in ("a", "b") for number in (1, 2)
    ]
    assert [row[3:] for row in rows][1:3] == [
        tuple(f"{file} {name}" for name in names) for file in ("a", "b")
    ]


def test_a_restricted_engine_reads_the_log_and_nothing_else(connection, tmp_path):
    for name in ("log[1]", "log1"):
        pq.write_table(pa.table({"user": [name]}), tmp_path / f"{name}.parquet")
    folder = tmp_path / "work[2]"
    files = open_log(connection, "log", "data.events", [str(tmp_path / "log[1].parquet")], folder)
    restrict(connection, files, [folder])
    assert connection.execute("SELECT user FROM log").fetchall() == [("log[1]",)]
    connection.execute(f"COPY (FROM log) TO '{folder}/copy.parquet'")
    assert connection.execute(f"SELECT user FROM {parquet_files(folder / 'copy.parquet')}").fetchall()
    with pytest.raises(duckdb.PermissionException):
        connection.execute(f"FROM '{tmp_path}/log1.parquet'")
    with pytest.raises(duckdb.PermissionException):
        connection.execute(f"COPY (SELECT 1) TO '{tmp_path}/out.csv'")


def test_a_failed_download_is_the_inputs_fault(connection, tmp_path, monkeypatch):
    def export(name, split, folder):
        raise RuntimeError(f"{name} could not be prepared")

    monkeypatch.setattr(tfds_in, "export", export)
    with pytest.raises(ValueError, match=r"data.events: x could not be prepared"):
        read(connection, tmp_path, "tfds:x")


PEAK = """
import resource, sys
from pathlib import Path
import duckdb
from pinnerformer_jax.config import CsvConfig
from pinnerformer_jax.ingestion import csv_reader

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
connection = duckdb.connect()
connection.execute("SET memory_limit = '500MB'; SET threads = 2")
file = Path(sys.argv[1])
try:
    csv_reader.copy(connection, "data.events", file, file.with_suffix(".parquet"), CsvConfig())
    print(*connection.execute(
        f"SELECT count(*), count(COLUMNS('broken')) FROM read_parquet('{file.with_suffix('.parquet')}')"
    ).fetchone(), end=" ")
except ValueError as error:
    print(str(error).partition("read: ")[2], end=" ")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
"""Rows, broken ones, and MB that a copy takes beside what was taken before."""

_ROW, _LONG = b"u1,i1,1700000000\n", b"x" * 1_900_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ([b"user,item,time\n", _ROW, b"u1,", _LONG * 125, b",1700000000\n", _ROW], "3 1"),  # one field
        ([b"user,item,time\n", _ROW, b'u1,"', _LONG * 125, b'",1700000000\n', _ROW], "3 1"),
        ([b"user,item,time,", _LONG * 125, b"\n", _ROW], "line 1 is longer than 2,097,152 bytes"),
        ([b"user,item,time\n", _ROW, *[_LONG, b"\n"] * 125], "126 125"),
        ([b'user,item,time,"a\n', *[_LONG, b"\n"] * 125, b"u1,i1,17,x\n"], "126 125"),
        ([b"user,item,time,text\n", _ROW, *[b"u1,i1,1,", _LONG, b"\n"] * 125], "126 1"),
        ([b"user,item,time\n", _ROW, *[b'u1,"', _LONG[:1_000_000], b'\n","\n'] * 125], "251 250"),
    ],
)
def test_long_lines_take_little_memory(tmp_path, parts, found):
    """A quarter of a gigabyte in a small .gz."""
    with gzip.open(tmp_path / "log.csv.gz", "wb", compresslevel=1) as file:
        for part in parts:
            file.write(part)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PEAK, tmp_path / "log.csv.gz"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    told, _, peak = done.stdout.rpartition(" ")
    assert told == found
    assert int(peak) < 500
