import json

from pinnerformer_jax.bench.report import finish, record, table
from pinnerformer_jax.config import Config


def test_table_aligns_names_left_and_numbers_right(capsys):
    table("Title", ("name", "value"), [["a", 12345.6], ["long name", 0.12345], ["none", None]])
    assert capsys.readouterr().out.splitlines() == [
        "",
        "Title",
        "name        value",
        "---------  ------",
        "a          12,346",
        "long name   0.123",
        "none            -",
    ]


def test_json_is_the_last_line_and_the_file(capsys, tmp_path):
    values = record("loss", Config(name="x"), {"ms": 1.5})
    finish(values, tmp_path / "new" / "loss.json")
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last) == json.loads((tmp_path / "new" / "loss.json").read_text()) == values
    assert values["figures"] == {"ms": 1.5}
    assert values["config"]["model"]["width"] == 768
    assert {"date", "jax", "device", "command", "platform", "devices"} <= values.keys()
