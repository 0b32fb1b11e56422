"""What a step made: is all there that it declares, which numbers it logged, and its pages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from birdsong.runs import reuse


def changes(recorded: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a step's record that its outputs give."""
    metrics = {
        name: value
        for output in recorded.values()
        if output["type"] == "system.Metrics"
        for name, value in sorted(output["metadata"].items())
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {"outputs": recorded, "metrics": metrics, "error": None}


def missing(declared: Mapping[str, str], outputs: Mapping[str, Any]) -> str | None:
    """Say which outputs a step ended without; kfp.local lets the next step stumble on them."""
    lost = [
        name
        for name, kind in declared.items()
        if name not in outputs
        or (
            kind.startswith("system.")
            and kind not in reuse.NO_FILE
            and hasattr(outputs[name], "path")
            and reuse.is_here(outputs[name].uri)
            and not Path(outputs[name].path).exists()
        )
    ]
    if not lost:
        return None
    return f"The step ended well but made no {', '.join(lost)}."


def name_pages(folder: Path, step: str, outputs: Mapping[str, Mapping[str, Any]]) -> None:
    """Give HTML outputs, which kfp writes without an ending, a name that browsers open."""
    for name, output in outputs.items():
        if output["type"] == "system.HTML" and Path(output["path"]).is_file():
            place = page(folder, step, name)
            place.parent.mkdir(exist_ok=True)
            place.unlink(missing_ok=True)
            try:
                place.hardlink_to(output["path"])
            except OSError:
                place.write_bytes(Path(output["path"]).read_bytes())


def page(folder: Path, step: str, output: str) -> Path:
    """Where a page of a step lies under a name that browsers open."""
    return folder / "pages" / f"{step.replace('/', '.')}.{output}.html"
