"""A cheap program in place of the training: epochs, checkpoints, metric lines, a model.

Hyperparameters beside those of the training that change what it does:

    birdsong_made_seconds   of an epoch, 0.05
    birdsong_made_fail      a learning rate above this fails

Or for all jobs of a server by variables: MADE_SECONDS, MADE_FAIL, and MADE_GATE, a file without
which no epoch begins.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(root: Path) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    told = json.loads((root / "input/config/hyperparameters.json").read_text())
    seconds = float(told.get("birdsong_made_seconds") or os.environ.get("MADE_SECONDS", "0.05"))
    fails = float(told.get("birdsong_made_fail") or os.environ.get("MADE_FAIL", "inf"))
    rate = float(told.get("learning_rate", "0.001"))
    channels = sorted(place.name for place in (root / "input/data").iterdir())
    print(f"channels {' '.join(channels)}")
    if rate > fails:
        (root / "output").mkdir(exist_ok=True)
        (root / "output/failure").write_text(f"learning_rate {rate} is above {fails}.")
        print("error: it went wrong", flush=True)
        return 1
    state = root / "checkpoints" / "state.json"
    done = json.loads(state.read_text())["done"] if state.exists() else []
    if done:
        print(f"train: goes on after epoch {len(done)}", flush=True)
    for epoch in range(len(done) + 1, int(told.get("epochs", "3")) + 1):
        gate = os.environ.get("MADE_GATE")
        while gate and not Path(gate).exists():
            time.sleep(0.05)
        time.sleep(seconds)
        done.append(1 - 1 / (1 + epoch))
        aside = state.with_suffix(".writing")
        aside.write_text(json.dumps({"done": done}))
        aside.replace(state)
        print(f"train: epoch {epoch}/{told.get('epochs', '3')}", flush=True)
        print(f"progress train {epoch}/{told.get('epochs', '3')} epochs", flush=True)
    # The nearer to 1e-4, the better: something for a search to find.
    accuracy = done[-1] / (1 + abs(rate - 1e-4) * 1e3)
    model(root, told, accuracy, len(done))
    print(f"metric validation_accuracy={accuracy}", flush=True)
    return 0


def model(root: Path, told: dict[str, str], accuracy: float, epochs: int) -> None:
    from birdsong import artifacts

    data = root / "input/data"
    inputs = {name: data / name for name in ("development", "hyperparameters")}
    inputs = {name: place for name, place in inputs.items() if place.is_dir()}
    with artifacts.create(root / "model/model", "model", told, inputs) as folder:
        artifacts.write_json(folder.path / "model.json", {"accuracy": accuracy})
    (root / "model/history.html").write_text("<p>curves</p>")
    metrics = {"validation_accuracy": accuracy, "epochs": float(epochs)}
    artifacts.write_json(root / "model/metrics.json", metrics)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
