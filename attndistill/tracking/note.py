"""A run's description, as MLflow shows it: what it is, what it changes, what was measured. Read from the run itself."""

from typing import Any

_CHANGES_AT_MOST = 40  # more than that is no list for people; the params have them all


def note_of(run: Any) -> str:
    """Markdown, from a run's tags, params and metrics (an mlflow.entities.Run)."""
    tags, metrics = run.data.tags, run.data.metrics
    parts = [_what(tags, run.info.run_name)]
    if tags.get("attndistill.params") == "changes":
        shown = [f"`{key}` {value}" for key, value in sorted(run.data.params.items())]
        more = f" and {len(shown) - _CHANGES_AT_MOST} more" if len(shown) > _CHANGES_AT_MOST else ""
        parts.append(f"Changes {', '.join(shown[:_CHANGES_AT_MOST])}{more}." if shown else "Changes no setting.")
    figures = sorted(key for key in metrics if f"{key}_n" in metrics)
    if figures:
        lines = [f"| {key} | {_amount(metrics, key)} | {metrics[f'{key}_n']:.0f} |" for key in figures]
        parts.append("\n".join(["| figure | mean ± sd | n |", "|---|---|---|", *lines]))
    if "attndistill.error" in tags:
        parts.append(f"Ended by {tags['attndistill.error']}")
    return "\n\n".join(parts)


def _what(tags: dict[str, str], name: str) -> str:
    if tags.get("stage") == "dvc":
        what = f"`{tags.get('attndistill.command', name)}`; its stages are the runs below"
    else:
        what = f"Stage {tags.get('stage', name)}" + (f" of {tags['row']}" if "row" in tags else "")
    seeds = f", seeds {tags['seeds']}" if "seeds" in tags else ""
    experiment = f", DVC experiment {tags['dvc.experiment']}" if "dvc.experiment" in tags else ""
    return f"{what}{seeds}{experiment}."


def _amount(metrics: dict[str, float], key: str) -> str:
    deviation = metrics.get(f"{key}_sd")
    return f"{metrics[key]:.4g}" + ("" if deviation is None else f" ± {deviation:.2g}")
