"""Small logs as public data sets and shop systems write them. The rows are made up."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DAYS = 90
START = datetime.datetime(2023, 3, 1, 8, 5, 9)


class Event(NamedTuple):
    """What somebody did."""

    user: int
    item: int
    when: datetime.datetime
    draw: float  # in [0, 1), to choose an action, a rating ... by


def events(users: int = 50, items: int = 12, per_user: int = 10) -> list[Event]:
    """Events in the order of time."""
    rng = np.random.default_rng(0)
    rows = [
        Event(
            user,
            int(rng.integers(items)),
            START + datetime.timedelta(minutes=int(minute)),
            float(rng.random()),
        )
        for user in range(users)
        for minute in rng.choice(DAYS * 24 * 60, per_user, replace=False)
    ]
    return sorted(rows, key=lambda row: row.when)


def write(
    path: Path,
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    delimiter: str = ",",
    encoding: str = "utf-8",
) -> str:
    """Write a CSV file, .gz by its name; without a header where it is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerows([header, *rows] if header else rows)
    data = text.getvalue().encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def seconds(row: Event) -> int:
    return int(row.when.replace(tzinfo=datetime.UTC).timestamp())


def recbole(folder: Path) -> tuple[str, str]:
    """RecBole: name:type in the header."""
    log = write(
        folder / "ml.inter",
        ["user_id:token", "item_id:token", "rating:float", "timestamp:float"],
        [(r.user, r.item, float(1 + int(5 * r.draw)), float(seconds(r))) for r in events()],
        "\t",
    )
    items = write(
        folder / "ml.item",
        ["item_id:token", "movie_title:token_seq", "class:token_seq"],
        [(k, f"Film {k} of many", ("Drama", "Comedy")[k % 2]) for k in range(12)],
        "\t",
    )
    return log, items


def movielens(folder: Path) -> tuple[str, str]:
    """MovieLens 25M."""
    log = write(
        folder / "ratings.csv",
        ["userId", "movieId", "rating", "timestamp"],
        [(r.user + 1, r.item + 1, 0.5 + 0.5 * int(10 * r.draw), seconds(r)) for r in events()],
    )
    genres = ("Adventure|Children", "Drama", "Comedy|Romance")
    items = write(
        folder / "movies.csv",
        ["movieId", "title", "genres"],
        [(k + 1, f"Some film, the {k}th (1995)", genres[k % 3]) for k in range(12)],
    )
    return log, items


def movielens_1m(folder: Path) -> tuple[str, str]:
    """MovieLens 1M: fields between ::, no header."""
    path = folder / "ratings.dat"
    path.write_text("".join(f"{r.user}::{r.item}::{1 + int(5 * r.draw)}::{seconds(r)}\n" for r in events()))
    return str(path), ""


def retailrocket(folder: Path) -> tuple[str, str]:
    """RetailRocket: milliseconds, and a table of properties with several rows an item."""
    rows = []
    for r in events():
        event = "view" if r.draw < 0.9 else "addtocart" if r.draw < 0.97 else "transaction"
        rows.append((1000 * seconds(r), r.user, event, r.item, 7 if event == "transaction" else ""))
    log = write(folder / "events.csv", ["timestamp", "visitorid", "event", "itemid", "transactionid"], rows)
    items = write(
        folder / "item_properties.csv",
        ["timestamp", "itemid", "property", "value"],
        [
            (1000 * seconds(r), k, name, f"n{k}")
            for k in range(12)
            for name in ("categoryid", "available")
            for r in events()[:2]
        ],
    )
    return log, items


def hm(folder: Path) -> tuple[str, str]:
    """H&M: days, ids with leading zeros, which the item table lost, and many rows that repeat another."""
    rows = []
    for r in events():
        row = (r.when.date(), f"{r.user:064x}", f"{108775015 + r.item:010d}", 0.05, 1 + int(2 * r.draw))
        rows += [row, row] if r.draw < 0.2 else [row]
    log = write(
        folder / "transactions_train.csv",
        ["t_dat", "customer_id", "article_id", "price", "sales_channel_id"],
        rows,
    )
    table = {
        "article_id": pa.array([108775015 + k for k in range(12)]),
        "product_code": pa.array([108775 + k for k in range(12)]),
        "prod_name": [f"Strap top {k}" for k in range(12)],
        "product_type_name": [("Vest top", "Bra", "Trousers")[k % 3] for k in range(12)],
        "detail_desc": [f"Jersey top with narrow straps, number {k}" for k in range(12)],
    }
    pq.write_table(pa.table(table), folder / "articles.parquet")
    return log, str(folder / "articles.parquet")


def instacart(folder: Path) -> tuple[str, str]:
    """Instacart, orders joined with their products: no time but the days since the order before."""
    log = write(
        folder / "orders.csv",
        [
            "order_id",
            "user_id",
            "product_id",
            "order_number",
            "order_dow",
            "order_hour_of_day",
            "days_since_prior_order",
        ],
        [
            (k // 3, r.user, r.item, k % 9, r.when.weekday(), r.when.hour, int(30 * r.draw))
            for k, r in enumerate(events())
        ],
    )
    return log, ""


def rees46(folder: Path) -> tuple[str, str]:
    """REES46: times with a zone, four actions, and a session beside the user."""
    rows = []
    for r in events():
        action = (
            "view"
            if r.draw < 0.8
            else "cart"
            if r.draw < 0.9
            else "remove_from_cart"
            if r.draw < 0.93
            else "purchase"
        )
        category = ("electronics.smartphone", "apparel.shoes", "")[r.item % 3]
        rows.append(
            (
                f"{r.when} UTC",
                action,
                1004856 + r.item,
                2053013555631882655 + r.item % 3,
                category,
                "samsung",
                130.76,
                520088904 + r.user,
                f"4d3b30da-a5e4-49df-b1a8-{r.user:012x}",
            )
        )
    header = [
        "event_time",
        "event_type",
        "product_id",
        "category_id",
        "category_code",
        "brand",
        "price",
        "user_id",
        "user_session",
    ]
    return write(folder / "2023-Mar.csv.gz", header, rows), ""


def kuairand(folder: Path) -> tuple[str, str]:
    """KuaiRand: flags for actions, milliseconds, a tab and play time."""
    rows = []
    for r in events():
        click = int(r.draw > 0.4)
        rows.append(
            (
                r.user,
                r.item,
                int(f"{r.when:%Y%m%d}"),
                int(f"{r.when:%H%M}"),
                1000 * seconds(r),
                click,
                int(r.draw > 0.95),
                int(0.9 < r.draw < 0.92),
                click * int(r.draw > 0.7),
                int(r.draw < 0.03),
                int(20000 * r.draw),
                21000,
                int(r.draw > 0.5),
                1 + r.item % 3,
            )
        )
    header = [
        "user_id",
        "video_id",
        "date",
        "hourmin",
        "time_ms",
        "is_click",
        "is_like",
        "is_follow",
        "long_view",
        "is_hate",
        "play_time_ms",
        "duration_ms",
        "is_rand",
        "tab",
    ]
    return write(folder / "log_standard.csv", header, rows), ""


def amazon(folder: Path) -> tuple[str, str]:
    """Amazon Reviews 2023."""
    log = write(
        folder / "Software.csv",
        ["user_id", "parent_asin", "rating", "timestamp", "history"],
        [
            (
                f"AGKHLEW2SOWHNMFQIJGBECAF{r.user:04d}",
                f"B07{r.item:07d}",
                float(1 + int(5 * r.draw)),
                1000 * seconds(r),
                "",
            )
            for r in events()
        ],
    )
    return log, ""


def merlin(folder: Path) -> tuple[str, str]:
    """NVIDIA Merlin's Parquet: a row a session, with lists; and an item table with vectors."""
    rows = events()
    users = [[r for r in rows if r.user == user] for user in range(50)]
    table = {
        "session_id": pa.array(range(50), pa.int64()),
        "item_id-list": pa.array([[r.item for r in own] for own in users], pa.list_(pa.int64())),
        "timestamp-list": pa.array([[seconds(r) for r in own] for own in users], pa.list_(pa.int64())),
    }
    pq.write_table(pa.table(table), folder / "sessions.parquet")
    vectors = np.random.default_rng(1).normal(size=(12, 8)).astype(np.float32)
    items = {"item_id": pa.array(range(12), pa.int64()), "item_embedding": list(vectors)}
    pq.write_table(pa.table(items), folder / "items.parquet")
    return str(folder / "sessions.parquet"), str(folder / "items.parquet")


def ga4(folder: Path) -> tuple[str, str]:
    """The export of Google Analytics 4: a list of records for the items, an empty user_id."""
    rows = events()
    names = [
        "page_view"
        if r.draw < 0.3
        else "view_item"
        if r.draw < 0.8
        else "add_to_cart"
        if r.draw < 0.9
        else "purchase"
        for r in rows
    ]
    record = pa.struct(
        [
            ("item_id", pa.string()),
            ("item_name", pa.string()),
            ("price", pa.float64()),
            ("quantity", pa.int64()),
        ]
    )
    items = [
        []
        if name == "page_view"
        else [
            {"item_id": f"GGOE{k}", "item_name": f"Mug {k}", "price": 9.0, "quantity": 1}
            for k in (r.item, (r.item + 1) % 12)
        ]
        for r, name in zip(rows, names, strict=True)
    ]
    table = {
        "event_date": [f"{r.when:%Y%m%d}" for r in rows],
        "event_timestamp": pa.array([10**6 * seconds(r) for r in rows]),
        "event_name": names,
        "user_id": pa.array([None] * len(rows), pa.string()),
        "user_pseudo_id": [f"{1000000 + r.user}.{16000 + r.user}" for r in rows],
        "items": pa.array(items, pa.list_(record)),
    }
    pq.write_table(pa.table(table), folder / "ga4.parquet")
    return str(folder / "ga4.parquet"), ""


def shopify(folder: Path) -> tuple[str, str]:
    """Shopify's export of orders: the status in the first row of an order alone."""
    given = events()
    rows = []
    for k, r in enumerate(given):
        order = k // 2
        first = k % 2 == 0
        buyer = given[2 * order].user
        email = "" if buyer == 3 else f"buyer{buyer}@example.com"
        status = ("refunded" if r.draw < 0.1 else "paid") if first else ""
        created = f"{given[2 * order].when} -0500"
        paid = created if first else ""
        rows.append(
            (
                f"#{1000 + order}",
                email,
                status,
                paid,
                created,
                1,
                f"Mug {r.item}",
                "9.00",
                f"SKU-{r.item}",
                "",
            )
        )
    header = [
        "Name",
        "Email",
        "Financial Status",
        "Paid at",
        "Created at",
        "Lineitem quantity",
        "Lineitem name",
        "Lineitem price",
        "Lineitem sku",
        "Cancelled at",
    ]
    return write(folder / "orders_export.csv", header, rows), ""


def lastfm(folder: Path, header: Sequence[str] = ()) -> tuple[str, str]:
    """Last.fm 1K: no header."""
    log = write(
        folder / "lastfm.tsv",
        header,
        [
            (
                f"user_{r.user:06d}",
                f"{r.when:%Y-%m-%dT%H:%M:%SZ}",
                f"f1b1cf71-bd35-4e99-8624-{r.item % 5:012x}",
                f"Artist {r.item % 5}",
                f"a1b1cf71-bd35-4e99-8624-{r.item:012x}",
                f"Track {r.item}",
            )
            for r in events()
        ],
        "\t",
    )
    return log, ""


def checkins(folder: Path, header: Sequence[str] = ()) -> tuple[str, str]:
    """Foursquare's check-ins: no header, and a date of its own form."""
    log = write(
        folder / "dataset_NYC.tsv",
        header,
        [
            (
                470 + r.user,
                f"49bbd6c0f964a520f453{r.item:04x}",
                f"4bf58dd8d48988d1279{r.item % 4:05x}",
                ("Café", "Gym", "Bar", "Park")[r.item % 4],
                40.7 + r.draw,
                -74.0,
                -240,
                f"{r.when:%a %b %d %H:%M:%S} +0000 {r.when:%Y}",
            )
            for r in events()
        ],
        "\t",
        "latin-1",
    )
    return log, ""


def semicolons(folder: Path, last_day: int = 31) -> tuple[str, str]:
    """A spreadsheet's CSV: semicolons, latin-1, dd/mm/yyyy, guests, cancellations, decimal commas."""
    rows = []
    for r in events():
        if r.when.day > last_day:
            continue
        quantity = -1 if r.draw < 0.05 else 1 + int(3 * r.draw)
        rows.append(
            (
                "" if r.user % 7 == 0 else f"K{r.user:05d}",
                f"{r.when:%d/%m/%Y %H:%M}",
                f"A-{r.item}",
                f"Stühle für {r.item}",
                quantity,
                "12,50",
            )
        )
    header = ["Customer", "OrderDate", "SKU", "Description", "Quantity", "Price"]
    return write(folder / "orders.csv", header, rows, ";", "latin-1"), ""


def online_retail(folder: Path) -> tuple[str, str]:
    """UCI Online Retail: month first without zeros, cancellations C..., customers as 17850.0."""
    rows = []
    for k, r in enumerate(events()):
        back = r.draw < 0.04
        when = f"{r.when.month}/{r.when.day}/{r.when.year} {r.when.hour}:{r.when.minute:02d}"
        user = "" if r.user % 5 == 0 else f"{17850 + r.user}.0"
        rows.append(
            (
                f"{'C' * back}{536365 + k}",
                f"8{r.item:04d}A",
                f"LANTERN {r.item}",
                -2 if back else 6,
                when,
                2.55,
                user,
                "France",
            )
        )
    header = [
        "InvoiceNo",
        "StockCode",
        "Description",
        "Quantity",
        "InvoiceDate",
        "UnitPrice",
        "CustomerID",
        "Country",
    ]
    return write(folder / "OnlineRetail.csv", header, rows), ""


def complete_journey(folder: Path) -> tuple[str, str]:
    """A grocer's baskets and a table of products without a column that is called like a title."""
    rows = [(r.user, 330, k, 1_000_000 + r.item, 1, 0.5, r.when) for k, r in enumerate(events())]
    names = "household_id", "store_id", "basket_id", "product_id", "quantity", "sales_value"
    names = *names, "transaction_timestamp"
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table(columns), folder / "transactions.parquet")
    products = [
        (
            1_000_000 + k,
            2,
            "GROCERY",
            ("National", "Private")[k % 2],
            f"KIND {k % 5}",
            f"KIND {k % 5}: SORT {k}",
            f"{k} OZ",
        )
        for k in range(12)
    ]
    names = "product_id", "manufacturer_id", "department", "brand", "product_category", "product_type"
    table = folder / "products.csv"
    return str(folder / "transactions.parquet"), write(table, [*names, "package_size"], products)


def names_in_the_log(folder: Path) -> tuple[str, str]:
    """A CSV with the product's id and, in a column that is called like one, its name."""
    rows = [(r.user, r.when, 1_000_000 + r.item, f"Roll no. {r.item}", "Bakery") for r in events()]
    header = ["customer", "bought_at", "product_id", "product", "category"]
    return write(folder / "groceries.csv", header, rows), ""


def names_in_the_table(folder: Path) -> tuple[str, str]:
    """The same in the item table."""
    rows = [(r.user, r.when, 1_000_000 + r.item) for r in events()]
    log = write(folder / "groceries.csv", ["customer", "bought_at", "product_id"], rows)
    products = [(1_000_000 + k, f"Roll no. {k}", ("Bakery", "Dairy")[k % 2]) for k in range(12)]
    return log, write(folder / "products.csv", ["product_id", "product", "category"], products)
