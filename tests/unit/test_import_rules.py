"""Which module may import what (design.md), seen in fresh processes and in the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "birdsong").rglob("*.py"))
SCIENCE = sorted(
    file for file in (ROOT / "birdsong").glob("*.py") if file.name not in {"__init__.py"}
)
CLOUD = {"boto3", "botocore", "google", "cloudpathlib", "sagemaker"}
HEAVY = {
    "kfp",
    "kfp_server_api",
    "kubernetes",
    "tensorflow",
    "keras",
    "pandas",
    "matplotlib",
    "mlflow",
    "sklearn",
    "pydantic",
}


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def loaded(code: str) -> set[str]:
    """Top-level packages that are loaded after `code` ran in a fresh process."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{code}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(done.stdout.splitlines()[-1].split())


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", SCIENCE, ids=name_of)
def test_the_science_imports_no_kfp_and_no_cloud(file: Path) -> None:
    allowed = CLOUD - {"sagemaker"} if file.name in ("storage.py", "clouds.py") else set()
    assert imported(file) & ({"kfp"} | CLOUD) <= allowed


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_only_the_registry_imports_mlflow_and_only_runs_and_commands_import_kfp(
    file: Path,
) -> None:
    packages = imported(file)
    if "mlflow" in packages:
        assert file.name in {"registry_mlflow.py", "registry_place.py"}
    if "kfp" in packages:
        assert file.parent.name in {"runs", "kubeflow", "cli"}
    if "kfp_server_api" in packages:
        assert file.parent.name == "kubeflow"


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_each_runtime_is_imported_in_one_place(file: Path) -> None:
    """openvino and nncf only where their telemetry is kept out."""
    packages = imported(file)
    if packages & {"openvino", "nncf", "openvino_telemetry"}:
        assert file.name == "openvino_setup.py"
    if "onnxruntime" in packages:
        assert file.parent.name == "runtimes"
    if packages & {"tf2onnx", "onnx"}:
        assert file.name == "export.py"


def test_importing_the_data_stages_loads_no_tensorflow_and_no_kfp() -> None:
    modules = ["recordings", "storage", "demo_data", "splits", "audio", "features", "preview"]
    code = "\n".join(f"import birdsong.{name}" for name in modules)
    assert loaded(code) & {"kfp", "tensorflow", "keras", "mlflow", "sagemaker"} == set()


def test_importing_registry_and_deployment_loads_no_mlflow_and_no_tensorflow() -> None:
    found = loaded("import birdsong.registry, birdsong.deployment")
    assert found & {"kfp", "tensorflow", "keras", "mlflow"} == set()


def test_the_command_line_loads_nothing_heavy_before_a_command_needs_it() -> None:
    assert loaded("import birdsong.cli.main") & HEAVY == set()


@pytest.mark.parametrize(
    "command", [[], ["run"], ["submit"], ["runs", "show"], ["compile"], ["doctor"]]
)
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    arguments = ["birdsong", *command, "--help"]
    code = f"import sys\nsys.argv = {arguments!r}\nfrom birdsong.cli.main import main\nmain()"
    # Typer itself takes pydantic (0.1 s) to read the options of a command.
    assert loaded(code) & (HEAVY - {"pydantic"}) == set()


def test_the_files_of_kubeflow_load_no_kfp_before_they_need_it() -> None:
    modules = sorted(file.stem for file in (ROOT / "birdsong/kubeflow").glob("[!_]*.py"))
    assert len(modules) >= 8
    code = "\n".join(f"import birdsong.kubeflow.{name}" for name in modules)
    assert loaded(code) & (HEAVY - {"pydantic"}) == set()


def test_looking_at_runs_loads_no_kfp_and_no_science(tmp_path: Path) -> None:
    arguments = ["birdsong", "runs", "list", "--runs", str(tmp_path)]
    code = f"import sys\nsys.argv = {arguments!r}\nfrom birdsong.cli.main import main\nmain()"
    assert loaded(code) & (HEAVY - {"pydantic"}) == set()
