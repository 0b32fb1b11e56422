"""From an artifact back to the recordings: which step of which run made it, and from what."""

from pathlib import Path
from typing import Any

from birdsong.errors import BirdsongError
from birdsong.runs.record import Run
from birdsong.runs_page.store import Store


def lineage(store: Store, run: Run, step: str, output: str) -> list[dict[str, Any]]:
    """All artifacts behind one of them, nearest first.

    Returns:
        List of {"depth", "step", "name", "type", "run", "sha256", "file", "from": [name, ...],
        "parameters"}; "run" is the one that made it, which for reused steps is an earlier one.
        Bundles tell which hashes they were made from, and these are compared with the record:
        "agrees" is False where the files behind a version are not those of the record.
    """
    makers = {
        value["uri"]: (maker.name, name)
        for maker in run.steps.values()
        for name, value in maker.outputs.items()
        if value.get("uri")
    }
    found: dict[tuple[str, str], dict[str, Any]] = {}
    queue = [((step, output), 0)]
    while queue:
        (maker_name, name), depth = queue.pop(0)
        maker = run.steps.get(maker_name)
        if (maker_name, name) in found or maker is None or name not in maker.outputs:
            continue
        value = maker.outputs[name]
        before = [
            makers[given["uri"]]
            for given in maker.inputs.values()
            if given.get("uri") in makers and makers[given["uri"]][0] != maker_name
        ]
        file = store.relative(value.get("path") or value.get("uri"))
        found[maker_name, name] = {
            "depth": depth,
            "step": maker_name,
            "name": name,
            "type": value.get("type", ""),
            "run": Path(file).parts[0] if file else run.id,
            "sha256": value.get("sha256"),
            "file": file,
            "from": [other for _, other in before],
            "state": str(maker.state),
            "metrics": maker.metrics,
        }
        queue += [(other, depth + 1) for other in before]
    return list(found.values())


def version(store: Store, run: Run) -> dict[str, Any] | None:
    """The registered version of a run and all that is behind it; None where there is none.

    Returns:
        {"step", "output", "version": contents of version.json, "bundle": {"agrees", "data"},
        "behind": `lineage`}.
    """
    from birdsong import artifacts

    for step in run.steps.values():
        for name, value in step.outputs.items():
            file = store.relative(value.get("path"))
            try:
                place = store.locate(file) if file else None
                if place is None or not (place / "version.json").is_file():
                    continue
                told = artifacts.read_json(place / "version.json")
                bundle = artifacts.read_json(place / "bundle" / "bundle.json")
            except (BirdsongError, OSError):
                continue
            recorded = {
                output: made["sha256"]
                for other in run.steps.values()
                for output, made in other.outputs.items()
                if made.get("sha256")
            }
            data = bundle.get("data", {})
            agrees = all(
                recorded.get(kind, entry.get("sha256")) == entry.get("sha256")
                for kind, entry in data.items()
            )
            return {
                "step": step.name,
                "output": name,
                "version": told,
                "bundle": {"agrees": agrees, "data": data},
                "behind": lineage(store, run, step.name, name),
            }
    return None
