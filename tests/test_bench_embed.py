import pytest
import small

from pinnerformer_jax.bench import embed


@pytest.mark.slow
def test_sizes_around_the_batch_and_the_forward_pass(capsys):
    figures = embed.measure(small.config(), items=40, seconds=0.0)
    assert [way["users"] for way in figures.values()] == [4, 16, 64, 64, 64, 16]
    for way in figures.values():
        assert way["users_per_second"] == pytest.approx(way["users"] / way["ms"] * 1e3)
    embed.show(figures)
    output = capsys.readouterr().out
    for name in ("training's forward pass", "many lengths, as long as T", "many lengths, in buckets"):
        assert name in output
