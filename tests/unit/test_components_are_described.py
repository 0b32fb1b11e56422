"""What people see of a component in a pipelines UI: every input and output has a description."""

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "components"
STAGES = sorted(
    file for file in FOLDER.glob("*.py") if file.name not in {"__init__.py", "images.py"}
)


def test_there_are_the_eight_stages() -> None:
    assert [file.stem for file in STAGES] == [
        *("deploy", "evaluate_threshold", "featurize", "ingest"),
        *("register", "split", "train", "tune"),
    ]


def function(file: Path) -> ast.FunctionDef:
    found = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in found] == [file.stem], "one component, named as its file"
    return found[0]


def described(text: str, section: str) -> set[str]:
    lines = text.split(f"{section}:\n", 1)[1].split("\n\n")[0].splitlines()
    return {line.split(":")[0].strip() for line in lines if line[:4] == "    " != line[4:8]}


@pytest.mark.parametrize("file", STAGES, ids=lambda file: file.stem)
def test_every_input_and_output_is_described_where_kfp_looks(file: Path) -> None:
    node = function(file)
    text = ast.get_docstring(node) or ""
    arguments = node.args.args
    outputs = {
        arg.arg for arg in arguments if ast.unparse(arg.annotation or node).startswith("Output[")
    }
    inputs = {arg.arg for arg in arguments} - outputs
    assert described(text, "Args") == inputs
    assert described(text, "Returns") == outputs


@pytest.mark.parametrize("file", STAGES, ids=lambda file: file.stem)
def test_a_component_only_plugs_the_library_in(file: Path) -> None:
    body = function(file).body[1:]
    first = body[0]
    assert isinstance(first, ast.ImportFrom)
    assert first.module == "birdsong"
    assert len(body) <= 8
    tree = ast.parse(file.read_text())
    assert "from __future__" not in file.read_text()
    packages = {
        node.module.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert packages == {"kfp", "components", "birdsong"}
