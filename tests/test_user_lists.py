"""Lists of users as people and spreadsheets write them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinnerformer_jax.serving.user_lists import names, read_list


@pytest.fixture
def read(tmp_path):
    """A function that writes a list and reads it, beside data with some user ids."""

    def read(text, known, others=(), kind=None):
        kind = kind or pa.array(known).type
        pq.write_table(pa.table({"user_id": pa.array(known, kind)}), tmp_path / "a.parquet")
        file = tmp_path / "list.txt"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        found = read_list(file, kind, [tmp_path / "a.parquet"], pa.array(others, kind))
        assert found.ids.type == kind
        return found.ids.to_pylist(), found.unknown

    return read


def test_ids_have_the_type_of_the_data(read):
    assert read("\ufeff7\r\n\n-1\n", [7, -1]) == ([7, -1], [])
    assert read("7\n -1 \n", ["7", "-1"]) == (["7", "-1"], [])
    with pytest.raises(ValueError, match=r"list\.txt: user ids are of type int64, one a line"):
        read("seven\n", [7])


def test_blanks_around_an_id_count_only_where_the_data_have_them(read):
    assert read("a \n\tb\nc \nd \n", ["a", "b", "c ", "c"]) == (["a", "b", "c ", "d"], ["d "])


def test_who_was_deleted_before_is_known(read):
    assert read("a\nb\nz\n", ["a"], others=["b"]) == (["a", "b", "z"], ["z"])
    assert read("", ["a"]) == ([], [])


def test_another_encoding_is_named_with_the_place(read):
    with pytest.raises(ValueError, match=r"list\.txt: byte 2 is not UTF-8; save the list as UTF-8"):
        read("b\xe9\n".encode("latin-1"), ["a"])


def test_many_names_are_cut():
    assert names(["a"]) == "'a'"
    assert names([str(k) for k in range(1_234)], 2) == "'0', '1' and 1,232 more"
