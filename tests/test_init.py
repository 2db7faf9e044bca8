"""`init`: the config that it writes for logs of many shapes is right, or it names the line to edit."""

import dataclasses

import log_formats
import pyarrow as pa
import pytest
from logs import make_events, write_parquet

from pinnerformer_jax.config_files import load_config
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.ingestion.ingest import prepare
from pinnerformer_jax.init import init, main

RATED = "CASE WHEN try_cast({} AS DOUBLE) >= 4 THEN 'liked' ELSE 'rated' END"

FORMATS = {
    "recbole": (
        {
            "data.columns.user": "user_id:token",
            "data.columns.item": "item_id:token",
            "data.columns.time": "timestamp:float",
            "data.time_unit": "s",
            "data.columns.action": RATED.format('"rating:float"'),
            "items.id": "item_id:token",
            "items.title": "movie_title:token_seq",
            "items.topic": "class:token_seq",
        },
        {"data.columns.action", "data.positives"},
    ),
    "movielens": (
        {
            "data.columns.user": "userId",
            "data.columns.item": "movieId",
            "data.columns.action": RATED.format("rating"),
            "data.positives": ["liked"],
            "items.id": "movieId",
            "items.title": "title",
            "items.topic": "split_part(genres, '|', 1)",
            "items.text": ("genres",),
        },
        {"data.columns.action", "data.positives"},
    ),
    "retailrocket": (
        {
            "data.columns.user": "visitorid",
            "data.columns.item": "itemid",
            "data.columns.time": "timestamp",
            "data.time_unit": "ms",
            "data.columns.action": "event",
            "data.positives": ["addtocart", "transaction"],
            "items.table": "",
        },
        {"data.positives", "items.table"},
    ),
    "hm": (
        {
            "data.columns.user": "customer_id",
            "data.columns.item": "article_id",
            "data.columns.time": "t_dat",
            "data.time_unit": "timestamp",
            "data.columns.surface": "sales_channel_id",
            "data.max_reject_share": 0.25,
            "items.id": "lpad(CAST(article_id AS VARCHAR), 10, '0')",
            "items.title": "prod_name",
            "items.topic": "product_type_name",
            "items.text": ("detail_desc",),
        },
        {"items.id"},
    ),
    "rees46": (
        {
            "data.columns.user": "user_id",
            "data.columns.item": "product_id",
            "data.columns.time": "event_time",
            "data.columns.action": "event_type",
            "data.positives": ["cart", "purchase"],
            "data.columns.topic": "category_code",
        },
        {"data.positives"},
    ),
    "kuairand": (
        {
            "data.columns.user": "user_id",
            "data.columns.item": "video_id",
            "data.columns.time": "time_ms",
            "data.time_unit": "ms",
            "data.columns.surface": "tab",
            "data.columns.duration": "try_cast(play_time_ms AS DOUBLE) / 1000",
            "data.positives": ["long_view", "like", "follow"],
            "data.sequence_actions": ("click", "long_view", "like", "hate", "follow"),
        },
        {"data.columns.action", "data.positives", "data.sequence_actions"},
    ),
    "amazon": (
        {
            "data.columns.user": "user_id",
            "data.columns.item": "parent_asin",
            "data.time_unit": "ms",
            "data.columns.action": RATED.format("rating"),
        },
        {"data.columns.action", "data.positives"},
    ),
    "merlin": (
        {
            "data.columns.user": "session_id",
            "data.columns.item": 'unnest("item_id-list")',
            "data.columns.time": 'unnest("timestamp-list")',
            "data.time_unit": "s",
            "items.id": "item_id",
            "items.vector": "item_embedding",
        },
        {"data.columns.user"},
    ),
    "ga4": (
        {
            "data.columns.user": "user_pseudo_id",
            "data.columns.item": "unnest(items).item_id",
            "data.columns.time": "event_timestamp",
            "data.time_unit": "us",
            "data.columns.action": "event_name",
            "data.positives": ["add_to_cart", "purchase"],
            "data.where": "len(items) > 0",
        },
        {"data.positives"},
    ),
    "shopify": (
        {
            "data.columns.user": "Email",
            "data.columns.item": "Lineitem sku",
            "data.columns.time": "try_strptime(trim(\"Created at\"), '%Y-%m-%d %H:%M:%S %z')",
            "data.columns.title": "Lineitem name",
            "data.where": "trim(Email) <> ''",
        },
        {"data.positives"},
    ),
    "semicolons": (
        {
            "data.columns.user": "Customer",
            "data.columns.item": "SKU",
            "data.columns.time": "try_strptime(trim(OrderDate), '%d/%m/%Y %H:%M')",
            "data.columns.action": "CASE WHEN try_cast(Quantity AS DOUBLE) < 0 THEN 'return' "
            "ELSE 'purchase' END",
            "data.columns.title": "Description",
            "data.csv.encoding": "cp1252",
            "data.positives": ["purchase"],
            "data.where": "trim(Customer) <> ''",
        },
        {"data.csv.encoding", "data.columns.action"},
    ),
    "online_retail": (
        {
            "data.columns.user": "CustomerID",
            "data.columns.item": "StockCode",
            "data.columns.time": "try_strptime(trim(InvoiceDate), '%m/%d/%Y %H:%M')",
            "data.columns.action": "CASE WHEN try_cast(Quantity AS DOUBLE) < 0 OR "
            "regexp_matches(InvoiceNo, '^C[0-9]') THEN 'return' ELSE 'purchase' END",
            "data.positives": ["purchase"],
            "data.where": "trim(CustomerID) <> ''",
        },
        set(),
    ),
    "complete_journey": (
        {
            "data.columns.user": "household_id",
            "data.columns.item": "product_id",
            "data.columns.time": "transaction_timestamp",
            "items.id": "product_id",
            "items.title": "product_type",
            "items.topic": "product_category",
            "items.text": ("brand", "package_size"),
        },
        set(),
    ),
    "names_in_the_table": (
        {"items.id": "product_id", "items.title": "product", "items.topic": "category"},
        set(),
    ),
    "names_in_the_log": (
        {
            "data.columns.user": "customer",
            "data.columns.item": "product_id",
            "data.columns.time": "bought_at",
            "data.columns.title": "product",
        },
        set(),
    ),
}
"""Choices that must be made, and the settings that must be marked CHECK: these and no others."""


@pytest.mark.parametrize("name", FORMATS)
def test_the_config_is_right_and_ingest_takes_it(tmp_path, monkeypatch, name):
    expected, check = FORMATS[name]
    monkeypatch.chdir(tmp_path)
    log, items = getattr(log_formats, name)(tmp_path)
    draft, _ = init([log], items, tmp_path / "yours.py")
    chosen = {setting: draft.value(setting, None) for setting in expected}
    if "data.positives" in expected:
        chosen["data.positives"] = [rule.action for rule in chosen["data.positives"]]
    assert {k: sorted(v) if isinstance(v, list) else v for k, v in chosen.items()} == {
        k: sorted(v) if isinstance(v, list) else v for k, v in expected.items()
    }
    assert draft.marked("EDIT") == []
    assert set(draft.marked("CHECK")) == check
    config = load_config(tmp_path / "yours.py")
    assert config == draft.config()
    data = dataclasses.replace(config.data, evaluation_share=0.3, validation_share=0.1)
    manifest = prepare(dataclasses.replace(config, data=data, sizes_by_log=False), lambda line: None)
    assert Timelines.open(config.data.prepared).users >= 30
    assert manifest.counts["positives"] > 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("movielens_1m", r"separated by ::.*sed 's/::/,/g'"),
        ("lastfm", r"does not begin with a header.*its 6 columns.*name6"),
        ("checkins", r"does not begin with a header.*its first line is '5"),
    ],
)
def test_a_file_without_a_header_is_refused_with_the_command_that_mends_it(tmp_path, name, said):
    log, _ = getattr(log_formats, name)(tmp_path)
    with pytest.raises(ValueError, match=said):
        init([log], "", tmp_path / "yours.py")
    assert not (tmp_path / "yours.py").exists()


def test_with_a_header_these_are_read(tmp_path):
    log, _ = log_formats.lastfm(tmp_path, ["userid", "timestamp", "artid", "artname", "traid", "traname"])
    draft, _ = init([log], "", tmp_path / "lastfm.py")
    assert draft.value("data.columns.item") == "traid"
    assert draft.choices["data.columns.item"].instead == ("'artid'",)  # tracks or artists: not for us to say
    assert draft.marked("CHECK") == ["data.columns.item"]
    names = ["user_id", "venue_id", "category_id", "category", "lat", "lon", "offset", "utc_time"]
    log, _ = log_formats.checkins(tmp_path, names)
    draft, _ = init([log], "", tmp_path / "checkins.py")
    assert draft.value("data.columns.time") == "try_strptime(trim(utc_time), '%a %b %d %H:%M:%S %z %Y')"
    assert draft.marked("CHECK") == ["data.csv.encoding"]


def test_without_a_time_the_line_to_edit_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    log, _ = log_formats.instacart(tmp_path)
    assert main([log, "--out", "yours.py"]) == 0
    line = 1 + (tmp_path / "yours.py").read_text().splitlines().index('            time="",')
    printed = capsys.readouterr().out
    assert f"yours.py:{line}  data.columns.time: no column gives a time" in printed
    with pytest.raises(ValueError, match=r"yours.py line \d+: data.columns.time = ''"):
        load_config("yours.py")


def test_a_date_that_no_row_decides_is_a_line_to_edit(tmp_path):
    log, _ = log_formats.semicolons(tmp_path, last_day=12)
    draft, _ = init([log], "", tmp_path / "yours.py")
    choice = draft.choices["data.columns.time"]
    assert (choice.value, choice.mark) == ("", "EDIT")
    assert "0 rows are dates only with the day first (dd/mm), 0 only with the month first" in choice.reason
    assert [other.count("%d/%m/%Y") for other in choice.instead] == [1, 0]
    assert all(f"or {other}" in (tmp_path / "yours.py").read_text() for other in choice.instead)


def test_a_log_that_mixes_two_orders_of_dates_is_a_line_to_edit(tmp_path):
    rows = [
        (r.user, r.item, f"{r.when:%d/%m/%Y}" if r.user % 2 else f"{r.when:%m/%d/%Y}")
        for r in log_formats.events()
    ]
    log = log_formats.write(tmp_path / "log.csv", ["user", "item", "date"], rows)
    draft, _ = init([log], "", tmp_path / "yours.py")
    assert draft.marked("EDIT") == ["data.columns.time"]
    assert "the log mixes them" in draft.choices["data.columns.time"].reason


def test_one_row_of_many_decides_the_order_of_a_date(tmp_path, monkeypatch):
    monkeypatch.setattr("pinnerformer_jax.ingestion.log_profile.SAMPLE", 100)
    rows = [(k % 50, k % 12, f"{1 + k % 12:02d}/{1 + k % 7:02d}/2023") for k in range(5000)]
    rows[4321] = (1, 1, "01/13/2023")
    log = log_formats.write(tmp_path / "log.csv", ["user", "item", "date"], rows)
    draft, _ = init([log], "", tmp_path / "yours.py")
    assert draft.value("data.columns.time") == "try_strptime(trim(date), '%m/%d/%Y')"
    assert "0 rows are dates only with the day first (dd/mm), 1 only with the month first" in (
        draft.choices["data.columns.time"].reason
    )


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_numeric_times_of_every_unit(tmp_path, unit, factor):
    rows = [(r.user, r.item, log_formats.seconds(r) * factor) for r in log_formats.events()]
    log = log_formats.write(tmp_path / "log.csv", ["user", "item", "when_time"], rows)
    draft, _ = init([log], "", tmp_path / "yours.py")
    assert draft.value("data.time_unit") == unit
    assert "they are 2023-03-0" in draft.choices["data.columns.time"].reason


def test_numbers_that_count_days_from_an_unknown_day_are_a_line_to_edit(tmp_path):
    rows = [(r.user, r.item, (r.when - log_formats.START).days) for r in log_formats.events()]
    log = log_formats.write(tmp_path / "log.csv", ["user", "item", "day"], rows)
    draft, _ = init([log], "", tmp_path / "yours.py")
    assert draft.marked("EDIT") == ["data.columns.time"]
    assert "no times since 1970" in draft.choices["data.columns.time"].reason


def test_what_ingest_refuses_is_a_line_to_edit(tmp_path):
    rows = [row | {"time": float(row["time"])} for row in make_events()]
    log = write_parquet(tmp_path / "log.parquet", rows, time=pa.float32())
    draft, _ = init([log], "", tmp_path / "yours.py")
    assert draft.marked("EDIT") == ["data.columns.time"]
    assert "is a float32" in draft.choices["data.columns.time"].reason


@pytest.mark.parametrize(
    ("ids", "written"),
    [
        ([f" i{k}" for k in range(15)], "trim(item)"),
        ([f"I{k}" for k in range(15)], "lower(trim(item))"),
        ([f"i{k}.0" for k in range(15)], "regexp_replace(item, '[.]0$', '')"),
    ],
)
def test_item_ids_in_another_spelling_get_the_expression_that_mends_them(tmp_path, ids, written):
    log = write_parquet(tmp_path / "log.parquet", make_events())
    items = log_formats.write(tmp_path / "items.csv", ["item", "title"], [(i, f"Title {i}") for i in ids])
    draft, _ = init([log], items, tmp_path / "yours.py")
    assert draft.value("items.id") == written
    assert "items.id" in draft.marked("CHECK")
    assert "15 of the 15 items of the log are in it" in draft.choices["items.id"].reason


def test_an_item_table_of_other_ids_is_left_out_and_said(tmp_path):
    log = write_parquet(tmp_path / "log.parquet", make_events())
    items = log_formats.write(
        tmp_path / "items.csv", ["item", "title"], [(f"x{k}", "Title") for k in range(15)]
    )
    draft, lines = init([log], items, tmp_path / "yours.py")
    assert draft.value("items.table") == ""
    assert "is left out: of the 15 items of the log, with ids such as 'i0', no column has any of them" in (
        draft.choices["items.table"].reason
    )
    text = (tmp_path / "yours.py").read_text().splitlines()
    assert text[lines["items.table"] - 1].strip() == 'table="",'


def test_a_user_that_stands_for_guests_is_left_out(tmp_path):
    rows = [(0 if r.user < 15 else r.user, r.item, r.when) for r in log_formats.events()]
    log = log_formats.write(tmp_path / "log.csv", ["user", "item", "time"], rows)
    draft, _ = init([log], "", tmp_path / "yours.py")
    assert draft.value("data.where") == """trim("user") NOT IN ('0')"""
    assert "data.where" in draft.marked("CHECK")
    assert "the user '0' (30.0% of the rows)" in draft.choices["data.where"].reason


def test_floating_point_ids_with_nan_are_guests(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"user": float("nan") if r.user % 7 == 0 else float(r.user), "item": r.item, "time": r.when}
        for r in log_formats.events()
    ]
    log = write_parquet(tmp_path / "log.parquet", rows)
    draft, _ = init([log], "", tmp_path / "yours.py")
    assert draft.marked("CHECK") == draft.marked("EDIT") == []
    assert "80 of 500 rows (16.0%) have no user" in draft.choices["data.where"].reason
    assert prepare(load_config(tmp_path / "yours.py"), lambda line: None).counts["out_of_scope"] == 80


def test_ids_that_are_no_products_are_said(tmp_path):
    rows = [(r.user, f"8{r.item}{r.user:02d}A", r.when) for r in log_formats.events()]
    log = log_formats.write(tmp_path / "log.csv", ["user", "item", "time"], [*rows, (3, "POST", rows[0][2])])
    draft, _ = init([log], "", tmp_path / "yours.py")
    assert draft.marked("CHECK") == ["data.columns.item"]
    assert "1 rows are of 1 ids without a digit, such as 'POST'" in draft.choices["data.columns.item"].reason


@pytest.mark.parametrize(
    ("written", "expression"),
    [
        ("%m/%d/%Y %I:%M %p", "try_strptime(trim(date), '%m/%d/%Y %I:%M %p')"),
        ("%d.%m.%y", "try_strptime(trim(date), '%d.%m.%y')"),
        ("%d-%b-%Y", "try_strptime(trim(date), '%d-%b-%Y')"),
        ("%Y%m%d", "try_strptime(CAST(date AS VARCHAR), '%Y%m%d')"),
        ("%Y-%m-%dT%H:%M:%S+02:00", "date"),
        ("%Y/%m/%d", "date"),
    ],
)
def test_texts_of_many_forms(tmp_path, written, expression):
    rows = [(r.user, r.item, r.when.strftime(written)) for r in log_formats.events()]
    log = log_formats.write(tmp_path / "log.csv", ["user", "item", "date"], rows)
    draft, _ = init([log], "", tmp_path / "yours.py")
    assert draft.value("data.columns.time") == expression
    assert draft.value("data.time_unit") == "timestamp"
    assert draft.marked("CHECK") == draft.marked("EDIT") == []
    assert "from 2023-03-01" in draft.seen[-2]  # what ingest makes of it


def test_a_time_of_day_in_a_column_of_its_own_is_said(tmp_path):
    rows = [(r.user, r.item, r.when.date(), r.when.time()) for r in log_formats.events()]
    log = log_formats.write(tmp_path / "log.csv", ["user", "item", "date", "time"], rows)
    draft, _ = init([log], "", tmp_path / "yours.py")
    assert draft.marked("CHECK") == ["data.columns.time"]
    assert draft.choices["data.columns.time"].instead == (repr("date || ' ' || time"),)


def test_two_columns_that_may_be_the_user_are_said(tmp_path):
    rows = [(r.user, r.user + 7, r.item, r.when) for r in log_formats.events()]
    log = log_formats.write(tmp_path / "log.csv", ["user_id", "customer_id", "sku", "order_date"], rows)
    draft, _ = init([log], "", tmp_path / "yours.py")
    assert draft.choices["data.columns.user"].mark == "CHECK"
    assert draft.choices["data.columns.user"].instead == ("'customer_id'",)


def test_a_large_log_is_tried_on_whole_users(tmp_path, monkeypatch):
    monkeypatch.setattr("pinnerformer_jax.ingestion.draft_config.TRIAL", 100)
    log = write_parquet(tmp_path / "log.parquet", make_events())
    draft, _ = init([log], "", tmp_path / "yours.py")
    tried = next(line for line in draft.seen if line.startswith("of one user in 4: "))
    users = int(tried.split(": ")[1].split(" ")[0])
    assert 1 <= users < 40
    assert f"{12 * users:,} usable events" in tried or "exact duplicate" in " ".join(draft.seen)


def test_nothing_is_overwritten(tmp_path, capsys):
    log, _ = log_formats.movielens(tmp_path)
    (tmp_path / "yours.py").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main([log, "--out", str(tmp_path / "yours.py")])
    assert stopped.value.code == 2
    assert "exists, and is not overwritten" in capsys.readouterr().err
    assert (tmp_path / "yours.py").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["movies.csv", "ratings.csv", "yours.py"]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("log.json", "{}", "is JSON, which ingest does not read"),
        ("log.xlsx", "", "is a spreadsheet"),
        ("log.csv", "user,item,time\n", "has no row"),
        ("log.csv", "user item time\n1 2 3\n", "has one column"),
        ("log.doc", "user,item,time\n1,2,3\n", "is of no known kind"),
        ("log.csv", "", "does not start with a header"),
    ],
)
def test_files_that_are_no_log_are_one_message(tmp_path, capsys, file, text, said):
    (tmp_path / file).write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / file), "--out", str(tmp_path / "yours.py")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert not (tmp_path / "yours.py").exists()


def test_texts_of_the_log_end_no_string_of_the_file(tmp_path):
    hostile = '"""\nimport os\n\\ [/red]'
    rows = [(r.user, f"{hostile}{r.item}", hostile, r.when) for r in log_formats.events()]
    log = log_formats.write(tmp_path / "log.csv", ["user", "item", "event", "time"], rows)
    draft, _ = init([log], "", tmp_path / "yours.py")
    assert load_config(tmp_path / "yours.py") == draft.config()
    assert not any(line.startswith("import") for line in (tmp_path / "yours.py").read_text().splitlines())
