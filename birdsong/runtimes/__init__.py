"""What can compute a trained network on a CPU, and how each runtime loads it.

TensorFlow computes the whole graph from waveforms to scores and is the reference. The others take
the network without its front end, which they cannot run well: from pictures
(`birdsong.frontend.pictures`) to logits. One ONNX file serves ONNX Runtime and OpenVINO in float32
and bfloat16; the network quantised to 8 bits is a pair of files of OpenVINO.

Nothing here imports a runtime before it is asked for.
"""

import importlib.metadata
import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from birdsong import artifacts
from birdsong.errors import BirdsongError, ConfigError, DataError
from birdsong.workers import count_cores

Floats = npt.NDArray[np.float32]
Network = Callable[[Floats], Floats]
"""Pictures, float32 (n, columns, bands, channels), to logits, float32 (n, species)."""

REFERENCE = "tensorflow"
TABLE = "runtimes.json"
"""In a model: what was exported and how it compares. In a bundle: what may be served."""

ONNX, INT8 = "runtimes/network.onnx", "runtimes/network_int8.xml"


@dataclass(frozen=True)
class Runtime:
    """One way to compute the network.

    Attributes:
        package: What must be installed.
        file: The network in a model's folder.
        precision: What OpenVINO calls the numbers that it computes in; empty for others.
        tolerance: Largest difference of a score between this runtime here and on the machine that
            evaluated it. Kernels of other CPUs add in another order; where numbers are rounded to
            8 or 16 bits on the way, a last bit may tip over.
        batch: Most frames of one pass, which bounds memory.
    """

    package: str
    file: str
    precision: str
    tolerance: float
    batch: int = 12


RUNTIMES: dict[str, Runtime] = {
    "openvino-int8": Runtime("openvino", INT8, "f32", 5e-2),
    "openvino-bf16": Runtime("openvino", ONNX, "bf16", 2e-2),
    "openvino-fp32": Runtime("openvino", ONNX, "f32", 1e-3),
    "onnx": Runtime("onnxruntime", ONNX, "", 1e-3),
    REFERENCE: Runtime("tensorflow", "saved_model", "", 1e-3, batch=48),
}
"""All of them, in the order of the speed that is expected of them."""


def known(name: str) -> Runtime:
    """The runtime of a name.

    Raises:
        ConfigError: There is none.
    """
    if name not in RUNTIMES:
        raise ConfigError(f"runtime {name!r} is not known: take auto, {', '.join(RUNTIMES)}.")
    return RUNTIMES[name]


def lacking(name: str) -> str:
    """What this machine lacks for a runtime, as a sentence; empty where nothing."""
    package = known(name).package
    if importlib.util.find_spec(package) is None:
        return f"The package {package} is not installed."
    if name == "openvino-bf16":
        # OpenVINO computes in float32 there without a word.
        from birdsong.runtimes.openvino_setup import openvino

        if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            return "This CPU does not compute in bfloat16 (AVX-512 BF16 or AMX)."
    return ""


def version(name: str) -> str:
    """The installed version of a runtime's package."""
    package = known(name).package
    for distribution in (package, f"{package}-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def load(model: Path, name: str) -> Network:
    """Load a network without its front end; the result may be called from several threads.

    Args:
        model: A model's folder.
        name: A runtime other than tensorflow.

    Raises:
        ConfigError: The runtime's package is not installed, or the CPU cannot run it.
        DataError: The file is missing or cannot be loaded.
    """
    runtime = known(name)
    if reason := lacking(name):
        raise ConfigError(f"runtime {name} cannot be used here: {reason}")
    file = model / runtime.file
    if not file.is_file():
        raise DataError(f"{file} is missing. Train the model again.")
    try:
        return _onnx(file) if name == "onnx" else _openvino(file, runtime.precision)
    except BirdsongError:
        raise
    # Each package raises exceptions of its own for a file that is damaged.
    except Exception as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise DataError(
            f"{file} cannot be loaded by {name} ({told[:300]}). Fetch or register the model again."
        ) from error


def _onnx(file: Path) -> Network:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_cores()
    # Between two passes its threads would burn the cores that the front end needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()

    def run(pictures: Floats) -> Floats:
        result: Floats = session.run(None, {taken.name: pictures})[0]
        return result

    return run


def _openvino(file: Path, precision: str) -> Network:
    from birdsong.runtimes.openvino_setup import openvino

    core = openvino.Core()
    settings: dict[str, Any] = {
        # One request at a time on all cores. By default it would take bfloat16 where it can.
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": count_cores(),
    }
    request = core.compile_model(core.read_model(file), "CPU", settings).create_infer_request()
    one_at_a_time = threading.Lock()

    def run(pictures: Floats) -> Floats:
        with one_at_a_time:
            result: Floats = request.infer({0: pictures}, share_inputs=True)[0].copy()
            return result

    return run


def table(folder: str | Path) -> dict[str, Any]:
    """What a model's or a bundle's `runtimes.json` says of each runtime beside the reference.

    Returns:
        Name to its entry: `admitted`, `reason`, the figures of its comparison; empty for a model
        that was made by hand.

    Raises:
        DataError: It is not of the expected form.
    """
    place = Path(folder) / TABLE
    if not place.is_file():
        return {}
    found = artifacts.read_json(place)
    entries = found.get("runtimes") if isinstance(found, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(one, dict) for one in entries.values()):
        raise DataError(f"{place} does not have the expected form. Register the model again.")
    return {name: entry for name, entry in entries.items() if name in RUNTIMES}


def admitted(folder: str | Path) -> tuple[str, ...]:
    """Runtimes that a model or a bundle may be served with, the one expected fastest first.

    The reference is always among them, and the last.
    """
    entries = table(folder)
    return tuple(
        name
        for name in RUNTIMES
        if name == REFERENCE or entries.get(name, {}).get("admitted") is True
    )
