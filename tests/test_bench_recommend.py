import small

from pinnerformer_jax.bench import recommend


def test_a_file_and_requests_are_measured(capsys):
    figures = recommend.measure(small.config(), items=300, users=400, row_groups=7, seconds=0.0)
    assert figures["users_per_second"] > 0
    assert figures["peak_mib"] >= figures["opened_mib"] > figures["before_mib"] > 0
    assert len(figures["requests_ms"]) == 6
    assert all(0 < of["p50"] <= of["p99"] for of in figures["requests_ms"].values())
    recommend.show(figures)
    output = capsys.readouterr().out
    assert "A file for 400 users, 10 of 300 items" in output
    assert "events in the file, seen left out" in output
