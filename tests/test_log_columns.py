"""What a setting makes of the columns of a log."""

import pytest
from staged_log import T, one, staged


@pytest.mark.parametrize("field", ["user", "item", "time"])
@pytest.mark.parametrize("expression", ["3", "'user'", "1700000000 + 1", "CAST(3 AS VARCHAR)", "random()"])
def test_a_setting_without_a_column(tmp_path, field, expression):
    with pytest.raises(
        ValueError, match=rf"data.columns.{field} = .* uses no column: .*\['user', 'item', 'time'\]"
    ):
        staged(tmp_path, one(), columns={field: expression})


def test_a_number_of_a_column_is_no_column(tmp_path):
    table = {"0": ["u"], "1": ["i"], "2": [T]}
    numbers = {"user": "0", "item": "1", "time": "2", "action": "'x'"}
    assert staged(tmp_path, table, "user_id, item_id, action", numbers) == [("u", "i", "x")]
    with pytest.raises(ValueError, match=r"data.columns.item = '3' uses no column: .*\['0', '1', '2'\]"):
        staged(tmp_path, table, columns=numbers | {"item": "3"})


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_the_exact_case_of_a_name_wins(tmp_path, suffix):
    table = {"User": ["device"], "user": ["person"], "USER_1": ["other"], "item": ["i"], "time": [str(T)]}
    if suffix == "csv":
        table = "".join(",".join(line) + "\n" for line in (table, [value for [value] in table.values()]))
    values = {"user": "person", "User": "device", "USER_1": "other", "user_1": "other"}
    for setting, value in (values | {"upper(user)": "PERSON", 'upper("User")': "DEVICE"}).items():
        assert staged(tmp_path, table, "user_id", {"user": setting}, suffix=suffix) == [(value,)], setting
    for setting in ("USER", "lower(uSer)"):
        with pytest.raises(
            ValueError, match=r"data.columns.user: '.*' fits several columns, \['User', 'user'\]"
        ):
            staged(tmp_path, table, columns={"user": setting}, suffix=suffix)


@pytest.mark.parametrize(
    "text", ["true), 1 FROM log; SELECT (1", "1; SELECT 2", "1, 2", "1 FROM log", "true) FROM log --"]
)
def test_a_setting_is_one_expression(tmp_path, text):
    with pytest.raises(ValueError, match=r"data.where = .*(Parser Error|more than one SQL expression)"):
        staged(tmp_path, one(), where=text)
