"""The paper's tables, as tables of a study.

A study's file in configs/studies/ builds `config`, the base, and `tables` from the functions below.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pinnerformer_jax.evaluation.comparison import MODEL
from pinnerformer_jax.studies import paper
from pinnerformer_jax.studies.ranker import NO_VECTOR
from pinnerformer_jax.studies.study_table import (
    BASE,
    COVERAGE,
    ENTROPY,
    NEW,
    RECALL,
    Claim,
    Column,
    Line,
    StudyTable,
    Variant,
)


def pinnersage() -> StudyTable:
    """Table 1."""
    methods = {name: f"pinnersage_{count}" for count, name in zip((1, 5, 20), paper.TABLE_1, strict=False)}
    return StudyTable(
        "pinnersage",
        "Table 1: PinnerSage with an oracle, and PinnerFormer",
        tuple(Line(name, BASE, numbers, methods.get(name, MODEL)) for name, numbers in paper.TABLE_1.items()),
        (RECALL, ENTROPY, COVERAGE),
        ("retrieval", "pinnersage"),
        note="Oracle: for each target that one of the user's clusters counts which is nearest to it. Entropy "
        "and coverage are those of retrieving by all of them.",
    )


def staleness() -> StudyTable:
    """Table 2, with the share of recall that is lost from real time to daily."""
    variants = {"SASRec": Variant(objective={"name": "sasrec"}), "PinnerFormer": BASE}
    titles, lost = ("once", "daily", "real time"), "lost, real time to daily"
    columns = [Column(title, f"recall@10 {title}") for title in titles]
    lines = []
    for name, (once, daily, live) in paper.TABLE_2.items():
        lines.append(Line(name, variants[name], (once, daily, live, 1 - daily / live)))
    return StudyTable(
        "staleness",
        "Table 2: users embedded once, daily, in real time",
        tuple(lines),
        (*columns, Column(lost, "lost daily")),
        ("retrieval", "staleness"),
        (
            *(
                Claim((line.name, fresher), (line.name, staler))
                for line in lines
                for staler, fresher in pairwise(titles)
            ),
            Claim(
                ("SASRec", lost),
                ("PinnerFormer", lost),
                says="Dense all-action loses less than SASRec from real time to daily",
            ),
        ),
        plot="by column",
        note="Recall@10 of every positive event of the window, repeats included, the same events in each "
        "column; “lost” is the share of the real-time recall that a daily batch loses.",
    )


def objectives(half_horizon: float) -> StudyTable:
    """Table 3.

    Args:
        half_horizon: days, the paper's 14 where the base has 28.
    """
    objective = {
        "Next action": {"name": "next_action"},
        "SASRec": {"name": "sasrec"},
        "All action": {"name": "all_action"},
        "Dense all action, half the horizon": {"horizon_days": half_horizon},
        "Dense all action": {},
    }
    lines = [Line(name, Variant(objective=objective[name]), paper.TABLE_3[name]) for name in paper.TABLE_3]
    return StudyTable("objectives", "Table 3: objectives", tuple(lines), (RECALL, COVERAGE, NEW))


def negatives() -> StudyTable:
    """Table 4, and two lines that the paper has no numbers for: two softmaxes instead of one pool, and logQ
    of the negatives alone."""
    source = {
        "Random": {"in_batch_negatives": 0},
        "In-batch": {"random_negatives": 0},
        "Mixed": {},
    }
    lines = [
        Line(name, Variant(objective=source[name.removesuffix(", logQ")] | _logq(name)), paper.TABLE_4[name])
        for name in paper.TABLE_4
    ]
    lines += [
        Line("Two softmaxes", Variant(objective={"pool": "separate", "logq": False})),
        Line("Two softmaxes, logQ", Variant(objective={"pool": "separate"})),
        Line("Mixed, refined logQ", Variant(objective={"refined_logq": True})),
    ]
    return StudyTable(
        "negatives",
        "Table 4: negatives, without and with logQ",
        tuple(lines),
        (RECALL, COVERAGE, NEW),
        claims=(
            Claim(
                ("Random, logQ", RECALL.title),
                ("Random", RECALL.title),
                same=True,
                says="LogQ leaves random negatives as they are",
            ),
            *(
                Claim(
                    (f"{kind}, logQ", RECALL.title), (kind, RECALL.title), says=f"LogQ lifts {name} negatives"
                )
                for kind, name in (("In-batch", "in-batch"), ("Mixed", "mixed"))
            ),
            *(
                Claim(
                    ("Mixed, logQ", RECALL.title),
                    (f"{kind}, logQ", RECALL.title),
                    says=f"Mixed negatives beat {name} ones, both with logQ",
                )
                for kind, name in (("In-batch", "in-batch"), ("Random", "random"))
            ),
            Claim(
                ("Mixed, logQ", COVERAGE.title),
                ("Random, logQ", COVERAGE.title),
                says="Random negatives alone collapse coverage",
            ),
        ),
        note="Refined logQ: of the negatives alone (arXiv 2507.09331).",
    )


def _logq(name: str) -> dict[str, bool]:
    return {} if name.endswith("logQ") else {"logq": False}


def single_tasks(actions: Sequence[str]) -> StudyTable:
    """Table 5: trained on the positives of one action, evaluated on those of each.

    Args:
        actions: two or more, that make positives.
    """
    lines = [Line(f"Only {action}", Variant(objective={"target_actions": (action,)})) for action in actions]
    columns = [Column(action, f"recall@10 {action}") for action in actions]
    pairs = [(action, other) for action in actions for other in actions if other != action]
    claims = [Claim((f"Only {action}", action), (f"Only {other}", action)) for action, other in pairs]
    claims += [Claim((f"Only {action}", action), ("All actions", action)) for action in actions]
    claims += [Claim(("All actions", action), (f"Only {other}", action)) for action, other in pairs]
    claims += [Claim(("All actions", RECALL.title), (f"Only {action}", RECALL.title)) for action in actions]
    return StudyTable(
        "single-tasks",
        "Table 5: one action to train on, evaluated on each",
        (*lines, Line("All actions", BASE, (None,) * len(actions) + paper.FINAL[:1])),
        (*columns, RECALL),
        claims=tuple(claims),
        note="The paper: training on one action wins that action, training on all is second for each and "
        "best over all. Columns: targets by the action that made them.",
    )


def features(names: Sequence[str] = tuple(paper.TABLE_6)) -> StudyTable:
    """Table 6: a feature left out.

    Args:
        names: lines of the paper's table, those whose feature the log has.
    """
    dropped = {
        "All features": (),
        "No item vector": ("item",),
        "No timestamp": ("absolute_time", "relative_time"),
        "No surface": ("surface",),
        "No action": ("action",),
        "No duration": ("duration",),
        "No positional encoding": ("position",),
    }
    lines = [Line(n, Variant(model={"drop_features": dropped[n]}), paper.TABLE_6[n]) for n in names]
    claims = [
        Claim(
            ("All features", column.title),
            ("No item vector", column.title),
            says=f"Without item vectors {what}",
        )
        for column, what in ((RECALL, "recall falls"), (COVERAGE, "coverage collapses"))
    ]
    return StudyTable(
        "features", "Table 6: a feature left out", tuple(lines), (RECALL, COVERAGE), claims=tuple(claims)
    )


def lengths(values: Sequence[int]) -> StudyTable:
    """Table 7: events of the history that are read, ascending."""
    lines = [Line(str(value), Variant(model={"max_length": value})) for value in values]
    return StudyTable(
        "lengths",
        "Table 7: length of the history",
        tuple(lines),
        (RECALL, COVERAGE),
        claims=tuple(_ascending(lines)),
        plot="by line",
        note="The paper: steady gains up to about 32 events, smaller ones after, 256 the best tried.",
    )


def dimensions(values: Sequence[int]) -> StudyTable:
    """Table 8: numbers of an embedding, ascending."""
    lines = [Line(str(value), Variant(model={"output_dim": value})) for value in values]
    ends = (lines[-1].name, COVERAGE.title), (lines[0].name, COVERAGE.title)
    return StudyTable(
        "dimensions",
        "Table 8: numbers of an embedding",
        tuple(lines),
        (RECALL, COVERAGE),
        claims=(*_ascending([line for line in lines if int(line.name) <= 128]), Claim(*ends)),
        plot="by line",
        note="The paper: little is gained past 128, and small ones collapse to popular items.",
    )


def sizes(values: Sequence[tuple[int, int]]) -> StudyTable:
    """Table 9: (layers, width), ascending. The paper's smallest is L2 H256, its largest L6 H768."""
    numbers = {0: paper.TABLE_9["smallest"], len(values) - 1: paper.TABLE_9["largest"]}
    lines = [
        Line(f"L{layers} H{width}", Variant(model={"layers": layers, "width": width}), numbers.get(k, ()))
        for k, (layers, width) in enumerate(values)
    ]
    return StudyTable(
        "sizes",
        "Table 9: size of the model",
        tuple(lines),
        (RECALL, COVERAGE),
        claims=tuple(_ascending(lines)),
        plot="by line",
        note="The paper's numbers are of L2 H256 and of L6 H768.",
    )


def sasrec_losses() -> StudyTable:
    """Table 10."""
    objective = (
        {"name": "sasrec_plain", "loss": "binary_cross_entropy"},
        {"name": "sasrec_plain"},
        {"name": "sasrec"},
    )
    return StudyTable(
        "sasrec",
        "Table 10: SASRec's loss",
        tuple(
            Line(name, Variant(objective=changes), numbers)
            for (name, numbers), changes in zip(paper.TABLE_10.items(), objective, strict=True)
        ),
        (RECALL, COVERAGE),
    )


def ranker() -> StudyTable:
    """The online experiment, offline: the user vector as a ranker's feature."""
    names = {
        "No user vector": NO_VECTOR,
        "PinnerSage, weighted mean": "pinnersage_mean",
        "PinnerFormer": MODEL,
    }
    auc, loss = Column("AUC", "auc"), Column("log loss", "log_loss")
    entropy, gained = Column("normalised entropy", "normalised_entropy"), Column("entropy saved", "gained")
    model = "PinnerFormer"
    others = [name for name in names if name != model]
    return StudyTable(
        "ranker",
        "Online, offline: the user vector in a ranker",
        tuple(Line(name, BASE, (), method) for name, method in names.items()),
        (auc, loss, entropy, gained),
        ("retrieval", "ranker"),
        (
            *(Claim((model, auc.title), (name, auc.title), least=0.0) for name in others),
            *(Claim((name, entropy.title), (model, entropy.title), least=0.0) for name in others),
        ),
        note="The paper's experiment is online: Homefeed repins +7.5 %, closeups +6 % with PinnerFormer in "
        "place of PinnerSage. Here the same small ranker predicts the positive engagement of impressions in "
        "the second half of the window. “Entropy saved” is over no vector.",
    )


def _ascending(lines: Sequence[Line]) -> list[Claim]:
    """Recall rises from each line to the next."""
    return [Claim((b.name, RECALL.title), (a.name, RECALL.title)) for a, b in pairwise(lines)]
