import jax
import numpy as np
import pytest
import small

from pinnerformer_jax.bench import loss as bench
from pinnerformer_jax.objective import loss


@pytest.mark.slow
def test_online_sum_over_negatives_equals_the_plain_loss_and_its_gradient():
    arguments = bench.inputs(small.config(), items=60)

    def of(function, **settings):
        return jax.value_and_grad(
            lambda *vectors: function(*vectors, *arguments[4:], **settings), argnums=(0, 1, 2, 3)
        )(*arguments[:4])

    plain = of(loss.sampled_softmax)
    for chunk in (7, 1024):  # does not divide the 90 negatives; exceeds them
        online = of(bench.by_negatives, chunk=chunk)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), online, plain)


def test_every_way_computes_the_same_and_chunks_hold_less(capsys, monkeypatch):
    monkeypatch.setattr(bench, "ROW_CHUNKS", (8, 32, 4096))
    figures = bench.measure(small.config(), items=60, seconds=0.0)
    ways = figures["ways"]
    assert list(ways) == ["plain", "rows by 8", "rows by 32", "rows by 96", "negatives by 1024"]
    for way in ways.values():
        np.testing.assert_allclose(way["loss"], ways["plain"]["loss"], rtol=1e-5)
    assert ways["rows by 8"]["temporary_bytes"] < ways["rows by 32"]["temporary_bytes"]
    assert ways["rows by 32"]["temporary_bytes"] < ways["plain"]["temporary_bytes"]
    assert (figures["rows"], figures["negatives"]) == (96, 90)
    assert loss.row_chunk() == figures["default_row_chunk"] == 1024
    bench.show(figures)
    assert "rows by 32" in capsys.readouterr().out
