"""The page of a search of settings: the best, what mattered, every trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pinnerformer_jax.evaluation import figures
from pinnerformer_jax.evaluation.report import render


def tune_page(name: str, found: dict[str, Any], logarithmic: set[str]) -> str:
    """The page, whole in itself.

    Args:
        name: of the config.
        found: what `tune` returns.
        logarithmic: settings that are searched by their logarithm.
    """
    trials, shares = found["trials"], found["importances"]
    names = list(trials[0]["settings"]) if trials else []
    names.sort(key=lambda setting: -shares.get(setting, 0.0))
    return render(
        Path(__file__).with_name("tune.html"),
        name=name,
        verdict=_verdict(trials),
        lead=f"{len(trials)} trials were trained to their end, {found['pruned']} were pruned, "
        f"{found['failed']} failed or were cut off. The discounted gain is that of what is served to "
        "validation users at splits before t, which chose these settings and therefore flatters the best of "
        "them. The evaluation window was not looked at.",
        mattered="The share of the differences in gain that a setting explains (fANOVA over the trials), "
        "and each trial's gain by its value."
        if shares
        else "From the third finished trial on, this says how much each setting explains.",
        settings=[
            (
                setting,
                shares.get(setting),
                figures.gain_by_setting(
                    setting,
                    [(t["number"], t["settings"][setting], t["gain"]) for t in trials],
                    logarithmic=setting in logarithmic,
                ),
            )
            for setting in names
        ],
        found=found,
    )


def _verdict(trials: list[dict[str, Any]]) -> str:
    if not trials:
        return "No trial has been trained to its end yet."
    best, own = trials[0], next((trial for trial in trials if trial["number"] == 0), None)
    if own is None:
        return f"Trial {best['number']} is the best: gain {best['gain']:.4f}."
    if best is own:
        return f"No trial was better than the config's own settings: gain {own['gain']:.4f}."
    return (
        f"Trial {best['number']} has gain {best['gain']:.4f}, the config's own settings have "
        f"{own['gain']:.4f}."
    )
