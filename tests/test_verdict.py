import dataclasses

import pytest

from pinnerformer_jax.evaluation.results import Difference, MethodResults, MetricRow, ProtocolSummary
from pinnerformer_jax.evaluation.verdict import verdict
from pinnerformer_jax.retrieval.priors import Priors

PROTOCOL = ProtocolSummary(
    t="", window_end="", window_days=14.0, users=5000, eligible_users=5000, users_without_history=0,
    users_without_target=0, pairs=900, new_pairs=100, unreachable_pairs=0, items=10, reachable_items=10,
    index_size=10,
)  # fmt: skip
RECALL = {"served": 0.2, "pinnerformer": 0.12, "popularity": 0.05, "own_most_frequent": 0.18}


def methods(low, high, new=(0.01, 0.02)):
    rows = [
        MetricRow(method, protocol, "recall@10", value, 10)
        for method, value in RECALL.items()
        for protocol in ("full", "new_items")
    ]
    differences = [
        Difference("served", other, protocol, RECALL["served"] - value, *interval)
        for protocol, interval in (("full", (low, high)), ("new_items", new))
        for other, value in RECALL.items()
        if other != "served"
    ]
    return MethodResults(rows, [], {}, differences)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.03, "On all items, PinnerFormer, served 0.200 leads Own most frequent 0.180"),
        (-0.01, 0.03, "cannot be told apart"),
        (-0.03, -0.01, "Own most frequent 0.180, the best baseline, LEADS PinnerFormer, served"),
    ],
)
def test_the_first_sentence_says_who_leads(low, high, words):
    first, second, *_ = verdict(methods(low, high), PROTOCOL, Priors(0.1))
    assert words in first
    assert f"interval {low:+.3f} to {high:+.3f}" in first
    assert second.startswith("On new items, PinnerFormer, served 0.200 leads")


def test_vectors_that_hold_the_priors_are_no_baseline():
    found = methods(0.01, 0.03)
    rows = [MetricRow("vectors", name, "recall@10", 0.3, 10) for name in ("paper", "full", "new_items")]
    differences = [Difference("served", "vectors", name, -0.1, -0.2, -0.05) for name in ("full", "new_items")]
    with_vectors = dataclasses.replace(
        found, rows=[*found.rows, *rows], differences=[*found.differences, *differences]
    )
    told, before = (verdict(each, PROTOCOL, Priors(0.1)) for each in (with_vectors, found))
    (added,) = set(told) - set(before)
    assert added == (
        "In a vector database, which adds no priors, the vectors that the verb vectors writes reach 0.300 on "
        "all items, 0.300 on new items."
    )
    assert [sentence for sentence in told if sentence != added] == before


def test_a_loss_is_followed_by_what_to_do():
    sentences = verdict(methods(-0.03, -0.01, new=(-0.2, -0.1)), PROTOCOL, Priors(0.1))
    assert any("Do not serve this model for all items and new items" in line for line in sentences)
    assert not any("Do not serve" in line for line in verdict(methods(0.01, 0.03), PROTOCOL, Priors(0.1)))
    assert not any("--training.stop-after" in line for line in sentences)


@pytest.mark.parametrize(("low", "high", "said"), [(-0.05, -0.01, True), (-0.05, 0.01, False)])
def test_where_the_untrained_mean_leads_training_may_be_left_out(low, high, said):
    found = methods(0.01, 0.03)
    untrained = Difference("served", "last_items_served", "new_items", -0.03, low, high)
    rows = [MetricRow("last_items_served", "new_items", "recall@10", 0.23, 10)]
    found = dataclasses.replace(found, rows=[*found.rows, *rows], differences=[*found.differences, untrained])
    sentences = verdict(found, PROTOCOL, Priors(0.1))
    assert "Mean of the last items' vectors, served 0.230" in sentences[1]
    assert any("--training.stop-after 1" in line for line in sentences) == said


def test_priors_that_help_are_named_and_so_is_their_absence():
    assert any(
        "The priors help (+0.080 on all items" in line
        for line in verdict(methods(0.01, 0.03), PROTOCOL, Priors(0.1))
    )
    assert any("No prior helped" in line for line in verdict(methods(0.01, 0.03), PROTOCOL, Priors()))


def test_a_list_without_what_the_user_had_is_told():
    mostly_new = dataclasses.replace(PROTOCOL, new_pairs=891)
    told = verdict(methods(0.01, 0.03), mostly_new, Priors(hide_seen=True))[2]
    assert told.startswith(
        "891 of 900 targets are items that the user did not have, so what a user had is left out"
    )
    assert not any("left out" in line for line in verdict(methods(0.01, 0.03), mostly_new, Priors(0.1)))


def test_results_no_better_than_chance_come_first():
    found = methods(0.01, 0.03)
    found = dataclasses.replace(
        found,
        rows=[
            *found.rows,
            *(MetricRow("random", protocol, "recall@10", 0.199, 10) for protocol in ("full", "new_items")),
        ],
    )
    above, level = 0.0005, -0.001
    for full, new, words in (
        (level, level, "PinnerFormer, served cannot be told from items in random order (+0.001"),
        (level, above, "On all items"),
        (above, level, "On all items"),
    ):
        random = [
            Difference("served", "random", protocol, 0.001, low, 0.004)
            for protocol, low in (("full", full), ("new_items", new))
        ]
        told = verdict(
            dataclasses.replace(found, differences=[*found.differences, *random]), PROTOCOL, Priors()
        )
        assert told[0].startswith(words)


def test_few_users_say_what_cannot_be_told():
    few = dataclasses.replace(PROTOCOL, users=186)
    assert any(
        "186 evaluated users: differences from that baseline of less than 0.020 cannot be told" in line
        for line in verdict(methods(-0.01, 0.03), few, Priors(0.1))
    )
    assert not any("evaluated users" in line for line in verdict(methods(-0.01, 0.03), PROTOCOL, Priors(0.1)))


def test_targets_without_a_vector_come_first():
    moving = dataclasses.replace(PROTOCOL, unreachable_pairs=3386)
    first = verdict(methods(0.01, 0.03), moving, Priors())[0]
    assert first.startswith("79% of the targets are items without a vector")
    assert "items.vector" in first
