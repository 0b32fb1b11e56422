"""Networks in ONNX Runtime and OpenVINO: the same scores, and what happens where they cannot be."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from made_features import exported_model, song

from birdsong import artifacts, audio, runtimes
from birdsong.config import FeatureConfig, RuntimeConfig
from birdsong.errors import ConfigError, DataError
from birdsong.runtimes import choice as runtime_choice
from birdsong.runtimes import export as runtime_export
from birdsong.scoring import Scorer, load_scorer

CODES = ["a", "b", "c"]
OTHERS = [name for name in runtimes.RUNTIMES if name != runtimes.REFERENCE]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_model(tmp_path_factory.mktemp("model") / "model", CODES)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Songs, silence, noise, one quiet frame."""
    made = [audio.frames(song(500 + 400 * n, 5, seed=n), FeatureConfig())[0] for n in range(5)]
    noise = np.random.default_rng(0).uniform(-1, 1, 110_250).astype(np.float32)
    return np.stack([*made, np.zeros(110_250, np.float32), noise, made[0] * np.float32(1e-4)])


def usable(name: str) -> None:
    if reason := runtimes.lacking(name):
        pytest.skip(f"{name}: {reason}")


@pytest.mark.parametrize("name", OTHERS)
def test_each_runtime_scores_as_the_reference_within_its_tolerance(
    model: Path, frames: np.ndarray, name: str
) -> None:
    usable(name)
    reference = Scorer(model).frames(frames)
    scorer = load_scorer(model, name)
    assert scorer.runtime == name
    scores = scorer.frames(frames)
    assert np.ptp(reference, axis=0).min() > 0.05
    limit = 1e-5 if name in ("onnx", "openvino-fp32") else runtimes.RUNTIMES[name].tolerance
    # 8 bits reach no further than the training recordings, whose ranges they were set by: silence
    # is off by more here, where an untrained network amplifies every error.
    rows = [0, 1, 2, 3, 4, 6] if name == "openvino-int8" else slice(None)
    assert np.abs(scores - reference)[rows].max() < limit


@pytest.mark.parametrize("name", OTHERS)
def test_any_number_of_frames_scores_as_its_frames_alone(
    model: Path, frames: np.ndarray, name: str
) -> None:
    usable(name)
    scorer = load_scorer(model, name)
    alone = np.concatenate([scorer.frames(frame[None]) for frame in frames])
    for count in (0, 1, 7, 13, 25):
        scores = scorer.frames(np.resize(frames, (count, frames.shape[1])))
        assert scores.shape == (count, len(CODES))
        assert scores.dtype == np.float32
        assert np.abs(scores - np.resize(alone, scores.shape)).max(initial=0) < 1e-5


@pytest.mark.parametrize("name", OTHERS)
def test_threads_in_parallel_get_their_own_scores(
    model: Path, frames: np.ndarray, name: str
) -> None:
    usable(name)
    scorer = load_scorer(model, name)
    alone = scorer.frames(frames)
    wrong: list[float] = []

    def work(number: int) -> None:
        for _ in range(5):
            part = np.roll(frames, number, axis=0)[: 1 + number]
            difference = scorer.frames(part) - np.roll(alone, number, axis=0)[: 1 + number]
            wrong.append(float(np.abs(difference).max()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 30
    assert max(wrong) < 1e-5


def test_broken_weights_are_one_clear_error(model: Path, tmp_path: Path) -> None:
    """As where training went wrong: every weight is NaN."""
    import onnx

    usable("onnx")
    broken = shutil.copytree(model, tmp_path / "model")
    network = onnx.load(broken / runtimes.ONNX)
    for tensor in network.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = np.full(list(tensor.dims), np.nan, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(network, broken / runtimes.ONNX)
    with pytest.raises(DataError, match="weights are broken"):
        load_scorer(broken, "onnx").frames(np.ones((2, 110_250), np.float32))


@pytest.mark.parametrize("name", OTHERS)
def test_a_damaged_file_is_an_error_if_asked_for_and_passed_over_if_not(
    model: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    usable(name)
    damaged = shutil.copytree(model, tmp_path / "model")
    file = damaged / runtimes.RUNTIMES[name].file
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=f"cannot be loaded by {name}"):
        load_scorer(damaged, name)
    table = {one: {"admitted": one in (name, "openvino-int8", "onnx")} for one in OTHERS}
    artifacts.write_json(damaged / runtimes.TABLE, {"runtimes": table})
    taken = load_scorer(damaged)
    assert taken.runtime not in [
        one for one in OTHERS if runtimes.RUNTIMES[one].file == runtimes.RUNTIMES[name].file
    ]
    assert f"{name} is passed over" in capsys.readouterr().err


def test_the_fastest_is_measured_once_and_remembered(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_choice, "BUDGET_SECONDS", 60)
    taken = load_scorer(model)
    (file,) = (tmp_path / "cache/birdsong/runtimes").iterdir()
    measured = json.loads(file.read_text())["seconds"]
    assert set(measured) == {name for name in OTHERS if not runtimes.lacking(name)}
    assert taken.runtime == min(measured, key=lambda name: measured[name])
    monkeypatch.setattr(runtime_choice, "_measure", None)  # must not be asked again
    assert load_scorer(model).runtime == taken.runtime
    # What is remembered decides, whatever was true.
    measured["onnx"] = 1e-9
    file.write_text(json.dumps({"seconds": measured}))
    assert load_scorer(model).runtime == "onnx"


def test_a_start_measures_no_longer_than_its_budget_and_the_next_one_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_choice, "BUDGET_SECONDS", 0)
    names = [name for name in OTHERS if not runtimes.lacking(name)]
    for count in range(1, len(names) + 1):
        load_scorer(model)
        (file,) = (tmp_path / "cache/birdsong/runtimes").iterdir()
        assert list(json.loads(file.read_text())["seconds"]) == names[:count]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seconds": {"onnx": "fast"}}'])
def test_a_damaged_memory_is_measured_anew(model: Path, tmp_path: Path, text: str) -> None:
    load_scorer(model)
    (file,) = (tmp_path / "cache/birdsong/runtimes").iterdir()
    file.write_text(text)
    load_scorer(model)
    assert json.loads(file.read_text())["seconds"]


def test_where_nothing_can_be_remembered_the_server_starts_all_the_same(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_scorer(model).runtime in OTHERS


def test_processes_that_measure_at_the_same_time_leave_one_whole_file(
    model: Path, tmp_path: Path
) -> None:
    code = "import sys\nfrom birdsong.scoring import load_scorer\nload_scorer(sys.argv[1])"
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(model)], env=dict(os.environ))
        for _ in range(2)
    ]
    assert [process.wait(120) for process in started] == [0, 0]
    (file,) = (tmp_path / "cache/birdsong/runtimes").iterdir()
    assert json.loads(file.read_text())["seconds"]


def test_a_golden_recording_that_scores_otherwise_rules_a_runtime_out(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a CPU whose 8-bit instructions saturate: also where it was measured before."""
    usable("openvino-int8")
    monkeypatch.setattr(
        runtime_choice,
        "_measure",
        lambda scorer, best: 0.1 if scorer.runtime == "openvino-int8" else 0.2,
    )
    place = shutil.copytree(model, tmp_path / "model")
    assert load_scorer(place).runtime == "openvino-int8"
    samples = song(2000, 5)
    (place / "golden").mkdir()
    (place / "golden/0.flac").write_bytes(audio.encode_flac(samples, 22_050))
    by_runtime = {
        name: [float(score) for score in Scorer(place, name).window(samples)]
        for name in OTHERS
        if not runtimes.lacking(name)
    }
    by_runtime["openvino-int8"] = [abs(score - 0.2) for score in by_runtime["openvino-int8"]]
    entry = {"file": "0.flac", "label": "a", "scores": [0, 0, 0], "runtimes": by_runtime}
    artifacts.write_json(place / "golden/golden.json", [entry])
    assert load_scorer(place).runtime in set(by_runtime) - {"openvino-int8"}
    assert "openvino-int8 is passed over: it scores the golden recording" in capsys.readouterr().err
    assert load_scorer(place).runtime != "openvino-int8"


def test_what_is_not_admitted_is_refused_with_the_reason(model: Path, tmp_path: Path) -> None:
    place = shutil.copytree(model, tmp_path / "model")
    table = {"onnx": {"admitted": False, "reason": "Its top species differs."}}
    artifacts.write_json(place / runtimes.TABLE, {"runtimes": table})
    with pytest.raises(ConfigError, match=r"onnx is not admitted.*top species differs.*tensorflow"):
        load_scorer(place, "onnx")
    with pytest.raises(ConfigError, match=r"openvino-int8 is not admitted.*not exported"):
        load_scorer(place, "openvino-int8")
    with pytest.raises(ConfigError, match=r"'tflite' is not known: take auto, openvino-int8"):
        load_scorer(place, "tflite")
    assert load_scorer(place).runtime == "tensorflow"


def test_a_missing_package_is_named_or_another_runtime_is_taken(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = runtimes.importlib.util.find_spec
    monkeypatch.setattr(
        runtimes.importlib.util,
        "find_spec",
        lambda name, *more: None if name == "openvino" else found(name, *more),
    )
    with pytest.raises(ConfigError, match=r"package openvino is not installed"):
        load_scorer(model, "openvino-fp32")
    assert load_scorer(model).runtime == "onnx"
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name, *more: None)
    with pytest.raises(DataError, match=r"No runtime can be used.*tensorflow is not installed"):
        load_scorer(model)


def test_a_cpu_without_bfloat16_does_not_pretend(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO computes in float32 there, and says nothing."""
    openvino = pytest.importorskip("birdsong.runtimes.openvino_setup").openvino

    class Plain:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino, "Core", Plain)
    assert "bfloat16" in runtimes.lacking("openvino-bf16")
    assert not runtimes.lacking("openvino-int8")
    with pytest.raises(ConfigError, match="does not compute in bfloat16"):
        load_scorer(model, "openvino-bf16")


def test_fast_runtimes_import_no_tensorflow_and_send_no_telemetry(
    model: Path, tmp_path: Path
) -> None:
    """openvino and nncf report their import, and keep an identity in the user's home."""
    code = (
        "import sys\nimport numpy as np\nfrom birdsong.scoring import load_scorer\n"
        "load_scorer(sys.argv[1]).frames(np.ones((1, 110250), np.float32))\n"
        "from birdsong.runtimes.openvino_setup import nncf\nnncf()\n"
        "print(*sorted(name for name in sys.modules if sys.modules[name]))"
    )
    env = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)],
        capture_output=True,
        text=True,
        check=True,
        env=env,
        cwd=Path(__file__).resolve().parents[2],
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded & {"tensorflow", "keras", "pandas", "openvino_telemetry"} == set()
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


def verdict(**figures: object) -> tuple[bool, str]:
    entry = {"recordings": 300, "agreement": 1.0, "accuracy_points": 0.0, **figures}
    found = runtime_export._verdict(entry, RuntimeConfig())
    return found["admitted"], found.get("reason", "")


def test_a_runtime_is_admitted_by_agreement_and_accuracy_alone() -> None:
    assert verdict() == (True, "")
    assert verdict(agreement=297 / 300, accuracy_points=-0.5, largest_difference=0.3) == (True, "")
    admitted, reason = verdict(agreement=296 / 300)
    assert not admitted
    assert "98.7 % of 300 validation recordings, needed are 99 %" in reason
    for points in (-0.51, 0.51):
        admitted, reason = verdict(accuracy_points=points)
        assert not admitted
        assert f"{points:+.2f} points" in reason
    # Of few recordings all must agree.
    assert not verdict(recordings=99, agreement=98 / 99)[0]
    assert "no validation recordings" in verdict(recordings=0)[1]
    assert verdict(reason="Its export failed: it rains.")[0] is False


def test_an_export_that_fails_is_written_down_and_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An operation that the converter does not know, and a quantiser that is not installed."""

    def unknown(*_: object) -> None:
        raise ValueError("several\nlines: operation RFFT is not known")

    def absent(onnx: Path, frames: np.ndarray, place: Path) -> None:
        place.write_text("half of it")
        raise ModuleNotFoundError("No module named 'nncf'", name="nncf")

    monkeypatch.setattr(runtime_export, "_write_int8", absent)
    place = exported_model(tmp_path / "a/model", CODES)
    table = runtimes.table(place)
    assert table["openvino-int8"] == {
        "reason": "Its export failed: the package nncf is not installed.",
        "admitted": False,
    }
    assert table["onnx"]["admitted"]
    assert [file.name for file in (place / "runtimes").iterdir()] == ["network.onnx"]
    assert "openvino-int8 is not admitted: Its export failed" in capsys.readouterr().out
    monkeypatch.setattr(runtime_export, "_write_onnx", unknown)
    place = exported_model(tmp_path / "b/model", CODES)
    assert runtimes.admitted(place) == ("tensorflow",)
    reason = runtimes.table(place)["openvino-fp32"]["reason"]
    assert reason == "Its export failed: ValueError: lines: operation RFFT is not known."
