import dataclasses

import pytest
import small

from pinnerformer_jax.bench import items
from pinnerformer_jax.config import ItemsConfig, PinSageConfig


@pytest.mark.slow
def test_every_size_has_its_figures(capsys, monkeypatch):
    monkeypatch.setattr(items, "STEPS", 2)
    config = dataclasses.replace(
        small.config(),
        items=ItemsConfig(built_dim=8),
        pinsage=PinSageConfig(width=8, batch_size=4, random_negatives=4, walkers=3, neighbours=2),
    )
    figures = items.measure(config, sizes=[50, 100])
    assert [size["items"] for size in figures["sizes"]] == [50, 100]
    for size in figures["sizes"]:
        assert all(value > 0 for value in size.values())
        assert size["embedding_us_per_item"] * size["items"] == 1e6 * size["embedding_seconds"]
    items.show(figures)
    said = capsys.readouterr().out
    assert "10 edges an item, 8 numbers" in said
    assert said.splitlines()[-1].startswith("100")
