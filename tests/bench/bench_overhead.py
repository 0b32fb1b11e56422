"""What a step costs beside its work, and which steps import TensorFlow.

`python tests/bench/bench_overhead.py`: a pipeline of ten steps that do nothing, run by the engine;
the same ten processes started one after the other, without kfp and without the engine; and for each
stage, in a fresh process, whether importing its library loads TensorFlow. Ends with 1 if a step
costs more than 0.5 s more than a bare process, or if a stage imports TensorFlow that must not.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from kfp import dsl  # noqa: E402

LIMIT_SECONDS = 0.5
STEPS = 10
STAGES = {
    "ingest": "recordings",
    "split": "splits",
    "featurize": "features",
    "tune": "search",
    "train": "training",
    "evaluate-threshold": "evaluation",
    "register": "registry",
    "deploy": "deployment",
}
WITHOUT_TENSORFLOW = {"ingest", "split", "featurize", "tune", "register", "deploy"}


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def nothing(text: str) -> str:
    return text


@dsl.pipeline(name="nothings")
def nothings(text: str = "x") -> None:
    for _ in range(STEPS):
        text = nothing(text=text).output


def seconds_per_step() -> float:
    """Of a run by the engine, kfp's own executor in the step's process included."""
    from birdsong.runs import engine

    with tempfile.TemporaryDirectory() as runs:
        run = engine.execute(nothings, {}, runs)
        assert run.state == "SUCCEEDED", run.error
        return sum(step.seconds or 0.0 for step in run.steps.values()) / STEPS


def seconds_per_process() -> float:
    """Of a Python process that does nothing."""
    started = time.perf_counter()
    for _ in range(STEPS):
        subprocess.run([sys.executable, "-c", ""], check=True)
    return (time.perf_counter() - started) / STEPS


def imports(module: str) -> tuple[float, bool]:
    """Seconds to import a stage's library in a fresh process, and whether TensorFlow came with."""
    code = (
        f"import time; t = time.perf_counter(); import birdsong.{module}; import sys; "
        "print(time.perf_counter() - t, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    seconds, found = done.stdout.split()
    return float(seconds), found == "True"


def main() -> int:
    """Measure, print and judge."""
    bare, step = seconds_per_process(), seconds_per_step()
    print(f"process that does nothing  {bare:.3f} s")
    print(f"step that does nothing     {step:.3f} s, {step - bare:.3f} s more")
    good = step - bare <= LIMIT_SECONDS
    for stage, module in STAGES.items():
        seconds, found = imports(module)
        print(f"import for {stage:<20} {seconds:6.2f} s  {'tensorflow' if found else ''}")
        good &= not (found and stage in WITHOUT_TENSORFLOW)
    print("good" if good else "TOO MUCH")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
