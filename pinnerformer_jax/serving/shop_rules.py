"""Rules of a shop, by item id: which items may be shown, and how many of a category.

They are no part of a state: a file of them may change every hour, and a new state needs no change of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.retrieval.rules import Rules
from pinnerformer_jax.serving.user_lists import names

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class ShopRules:
    """Ids are of the type that they have in the log. Those that no item has do nothing.

    Raises:
        ValueError: at_most < 1, or an iterator of ids: each new state reads them again.
    """

    allow: Iterable[Any] | None = None  # the only items that may be shown; None: all
    block: Iterable[Any] = ()  # items that may not be shown, also if they are allowed
    category: Mapping[Any, Any] | None = None  # category of each item; items without one have no cap
    at_most: int = 1  # items of one category in an answer

    def __post_init__(self) -> None:
        if self.at_most < 1:
            raise ValueError(f"at most {self.at_most} items of a category: must be at least 1")
        for ids in (self.allow, self.block):
            if isinstance(ids, Iterator):
                raise ValueError(f"{ids!r}: can be read only once; give a list or a set of ids")

    def for_items(self, item_ids: pa.Array) -> Rules:
        """The rules for items [N], by row."""
        import pyarrow as pa
        import pyarrow.compute as pc

        def listed(ids: Iterable[Any]) -> np.ndarray:
            wanted = pa.array(ids if isinstance(ids, pa.Array) else list(ids), item_ids.type)
            return pc.is_in(item_ids, wanted).to_numpy(zero_copy_only=False)

        allowed = None
        if self.allow is not None or len(list(self.block)):
            allowed = np.ones(len(item_ids), bool) if self.allow is None else listed(self.allow)
            allowed &= ~listed(self.block)
        if self.category is None:
            return Rules(allowed)
        row = pc.index_in(item_ids, pa.array(list(self.category), item_ids.type))
        codes = pa.array(list(self.category.values())).dictionary_encode().indices
        category = pc.fill_null(codes.take(row), -1).to_numpy().astype(np.int64)
        return Rules(allowed, category, self.at_most)


def read_rules(
    item_ids: pa.Array,
    allow: Path | None,
    block: Path | None,
    category_of: Sequence[str] | None,
    at_most: int | None,
    warn: Callable[[str], None],
) -> ShopRules:
    """Rules from the files of a command line.

    Args:
        item_ids: of all items.
        allow: ids of the items that may be shown, one a line; None: all.
        block: ids of those that may not, one a line.
        category_of: a CSV or Parquet table, its column of item ids, its column of categories.
        at_most: items of one category; None: no cap.
        warn: gets a line on ids that no item has.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file is not UTF-8, an id is not of the items' type, a table lacks a column or gives an
            item two categories, none of the allowed ids is an item's, or there is a cap without
            categories or categories without a cap.
    """
    if (at_most is None) != (category_of is None):
        raise ValueError("--at-most and --category-of go together: a number, and a table of categories")
    allowed = None if allow is None else read_ids(allow, item_ids.type)
    blocked = () if block is None else read_ids(block, item_ids.type)
    for file, ids in ((allow, allowed), (block, blocked)):
        if file is None or ids is None:
            continue
        unknown = _unknown(ids, item_ids)
        if file == allow and len(unknown) == len(ids):
            raise ValueError(f"{file}: none of its {len(ids):,} ids is one of the items")
        if unknown:
            warn(f"{file}: {len(unknown):,} of {len(ids):,} ids are not among the items: {names(unknown)}")
    category = None if category_of is None else read_categories(category_of, item_ids)
    return ShopRules(allowed, blocked, category, 1 if at_most is None else at_most)


def read_ids(file: Path, kind: pa.DataType) -> pa.Array:
    """Ids, one a line, each once; blank lines, and blanks around an id, do not count.

    Args:
        file: text in UTF-8.
        kind: type of the ids in the data.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not UTF-8, or a line is no id of that type; the message names the line.
    """
    import pyarrow as pa

    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: byte {error.start + 1} is not UTF-8; save the list as UTF-8") from None
    lines = {number: line.strip() for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    try:
        return pa.array(lines.values(), pa.string()).cast(kind).unique()
    except pa.ArrowInvalid:
        for number, line in lines.items():
            try:
                pa.scalar(line).cast(kind)
            except pa.ArrowInvalid:
                raise ValueError(f"{file}, line {number}: {line!r} is no id of type {kind}") from None
        raise


def _unknown(ids: pa.Array, item_ids: pa.Array) -> list[str]:
    import pyarrow.compute as pc

    return [str(item) for item in ids.filter(pc.invert(pc.is_in(ids, item_ids))).to_pylist()]


def read_categories(category_of: Sequence[str], item_ids: pa.Array) -> dict[Any, Any]:
    """{item: category}, of items that have one."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.parquet as pq

    file, item, category = category_of
    if not Path(file).is_file():
        raise FileNotFoundError(f"--category-of {file}: no such file")
    if file.endswith(".parquet"):
        table = pq.read_table(file, partitioning=None)
    else:
        kinds = {item: pa.string(), category: pa.string()}  # "007" stays as it is
        options = pa.csv.ConvertOptions(column_types=kinds, strings_can_be_null=True)
        table = pa.csv.read_csv(file, convert_options=options)
    for column in (item, category):
        if column not in table.column_names:
            raise ValueError(f"{file}: no column {column!r}; it has {', '.join(table.column_names)}")
    try:
        table = pa.table({"item": table[item].cast(item_ids.type), "category": table[category]})
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{file}, column {item!r}: item ids are of type {item_ids.type}: {error}") from None
    table = table.filter(pc.and_(pc.is_valid(table["item"]), pc.is_valid(table["category"])))
    table = table.group_by(["item", "category"]).aggregate([])
    twice = pc.value_counts(table["item"]).to_pylist()
    if several := [str(of["values"]) for of in twice if of["counts"] > 1]:
        raise ValueError(f"{file}: items with more than one category: {names(several)}")
    return dict(zip(table["item"].to_pylist(), table["category"].to_pylist(), strict=True))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `rules_of` reads."""
    parser.add_argument("--allow", type=Path, metavar="FILE", help="show these items alone: ids, one a line")
    parser.add_argument("--block", type=Path, metavar="FILE", help="never show these items: ids, one a line")
    parser.add_argument(
        "--category-of", nargs=3, metavar=("FILE", "ITEM", "CATEGORY"),
        help="a CSV or Parquet table, its column of item ids and its column of categories",
    )  # fmt: skip
    parser.add_argument(
        "--at-most", type=int, metavar="N", help="show at most N items of a category (--category-of)"
    )


def rules_of(values: argparse.Namespace, item_ids: pa.Array) -> ShopRules | None:
    """The rules that a command line asks for, read now; None: it asks for none. Warnings go to stderr.

    Raises:
        FileNotFoundError, ValueError: see `read_rules`.
    """
    flags = values.allow, values.block, values.category_of, values.at_most
    if all(flag is None for flag in flags):
        return None
    return read_rules(item_ids, *flags, lambda line: print(f"WARNING: {line}", file=sys.stderr))
