import small

from pinnerformer_jax.bench import attention


def test_all_ways_at_the_models_shape_agree(capsys):
    figures = attention.measure(small.config(), seconds=0.0)
    assert figures["shape"] == [16, 20, 4, 8]
    assert list(figures["ways"]) == ["model", "xla", "blocks"]
    assert figures["ways"]["xla"]["largest_difference"] < 1e-5
    assert figures["ways"]["blocks"]["largest_difference"] == 0, "what the model takes on a CPU"
    assert figures["ways"]["model"]["temporary_bytes"] > 0
    attention.show(figures)
    assert "[16, 20, 4, 8] float32" in capsys.readouterr().out
