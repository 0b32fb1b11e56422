"""What a list shows of a run; it stands first in the record, so that a list of hundreds of runs
reads the first bytes of each and not all of it.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from birdsong.runs.record import Run

KEY = "headline"

METRICS = ("accuracy", "macro_auc", "cmap", "macro_f1", "false_positive_rate")
"""Metrics that a list shows, of the last step that logged them."""

_START = f'{{\n "{KEY}": '
_READ = 16_384
_LONGEST = 500


def of(run: "Run") -> dict[str, Any]:
    """The headline of a run."""
    metrics: dict[str, float] = {}
    for step in run.steps.values():
        wanted = (name for name in METRICS if name in step.metrics)
        for name in wanted:
            metrics[name] = step.metrics[name]
            for end in ("low", "high"):
                metrics.pop(f"{name}_{end}", None)
                if f"{name}_{end}" in step.metrics:
                    metrics[f"{name}_{end}"] = step.metrics[f"{name}_{end}"]
        if step.name.startswith("evaluate"):
            break  # later steps compare with other models under the same names
    states = [str(step.state) for step in run.steps.values()]
    registered = run.steps["register"].metrics if "register" in run.steps else {}
    version = None
    if "version" in registered:
        version = f"{run.arguments.get('model_name', '')} {registered['version']:.0f}".strip()
        version += "" if registered.get("accepted", 1) else " rejected"
    return {
        "id": run.id,
        "pipeline": run.pipeline,
        "state": str(run.state),
        "started": run.started,
        "ended": run.ended,
        "seconds": run.seconds,
        "source": run.arguments.get("source"),
        "metrics": metrics,
        "version": version,
        "parent": run.parent,
        "note": run.note[:_LONGEST],
        "error": run.error and run.error[:_LONGEST],
        "step_count": len(states),
        "done_count": sum(state in ("SUCCEEDED", "REUSED") for state in states),
        "running": [name for name, step in run.steps.items() if step.state == "RUNNING"],
        "failed": [name for name, step in run.steps.items() if step.state == "FAILED"],
    }


def read(record: Path) -> dict[str, Any] | None:
    """The headline of a record without the rest; None where there is none that can be read so.

    It says RUNNING also of a run whose engine is gone: only `record.read` looks at the process.

    Raises:
        OSError: There is no such file.
    """
    with record.open("rb") as file:
        first = file.read(_READ)
        file.seek(max(file.seek(0, 2) - 2, 0))
        whole = file.read() == b"}\n"
    if not whole or not first.startswith(_START.encode()):
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(first.decode(errors="replace"), len(_START))
    except ValueError:
        return None  # longer than what was read
    return found if isinstance(found, dict) and "state" in found else None
