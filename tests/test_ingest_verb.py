"""The verb `ingest` as a user runs it."""

import io

import pytest
from logs import given
from rich.console import Console

from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import format_time
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.ingest import main, summary
from pinnerformer_jax.ingestion import rejects
from pinnerformer_jax.ingestion.ingest import prepare

CONFIG = """
from pinnerformer_jax.config import ColumnsConfig, Config, DataConfig, ItemsConfig
config = Config(
    data=DataConfig(
        events=("log.parquet",), prepared="prepared", evaluation_share=0.3,
        columns=ColumnsConfig(action="action", surface="surface", duration="duration"),
    ),
    items=ItemsConfig(table="items.parquet", vector="vector", title="title"),
)
"""


@pytest.fixture
def verb(tmp_path, monkeypatch):
    """A folder with a config and a log, to run the verb in."""
    monkeypatch.chdir(tmp_path)
    given(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    return lambda *arguments: main(["--config", "config.py", *arguments])


def test_the_verb_prints_what_became_of_the_log(verb, capsys):
    verb("--data.evaluation-days", "7")
    output = capsys.readouterr().out
    for part in ("read 480 rows", "rows read", "events stored", "evaluation users", "view, like, save"):
        assert part in output
    assert output.endswith("prepared prepared\n")
    assert Timelines.open("prepared", verify=True).users == 40
    assert Catalog.open("prepared").titles[0].startswith("Item ")


def test_the_verb_prints_one_message_for_wrong_input(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        verb("--data.columns.user", "usr")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: data.columns.user = 'usr': there is no such column.")


def test_the_summary_names_every_count(tmp_path):
    manifest = prepare(given(tmp_path), lambda line: None)
    manifest.counts["rejected"] = {rejects.NO_USER: 1_234_567}
    table = summary(manifest)
    cells = dict(zip(table.columns[0].cells, table.columns[1].cells, strict=True))
    assert cells["  rejected: missing user"] == "1,234,567"
    assert cells["rows read"] == "480"
    assert cells["split"] == format_time(manifest.split_time)


def test_names_of_the_log_are_printed_as_they_are(tmp_path):
    """The terminal's library takes words in brackets for markup, and fails at a closing one."""
    manifest = prepare(given(tmp_path), lambda line: None)
    manifest.actions[1:] = ["[/view]", "[buy]"]
    manifest.counts["item_table"] |= {"unusable_ids": 1, "unusable_id": "[/red] x"}
    console = Console(file=io.StringIO(), width=120)
    console.print(summary(manifest))
    printed = console.file.getvalue()
    assert "[/view], [buy]" in printed
    assert "such as '[/red] x'" in printed
    assert "of items with stored events" in printed
