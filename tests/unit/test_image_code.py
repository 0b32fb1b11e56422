"""One fingerprint per image: changed by what its stages run, and by nothing else."""

import shutil
from pathlib import Path

import pytest

from birdsong import image_code
from birdsong.image_code import ROOT, STAGES, fingerprint, image_files

PARTS = ("birdsong", "components", "docker")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code."""
    for part in PARTS:
        shutil.copytree(
            ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "static")
        )
    return tmp_path


def changed(tree: Path, file: str) -> set[str]:
    """Images whose fingerprint changes with a file."""
    before = {target: fingerprint(target, tree) for target in STAGES}
    place = tree / file
    place.write_bytes(place.read_bytes() + b"\n# changed\n")
    return {target for target in STAGES if fingerprint(target, tree) != before[target]}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("birdsong/cli/main.py", set()),
        ("birdsong/runs/engine.py", set()),
        ("birdsong/serving/server.py", {"cloud", "serve"}),  # deploy starts it, by name
        ("birdsong/serving/answers.py", {"cloud", "serve"}),
        ("birdsong/ledger.py", {"data"}),
        ("birdsong/training.py", {"train"}),
        ("birdsong/deployment.py", {"cloud"}),
        ("birdsong/errors.py", {"data", "train", "cloud", "serve"}),
        ("birdsong/__init__.py", {"data", "train", "cloud", "serve"}),
        ("components/ingest.py", {"data"}),
        ("components/tune.py", {"train"}),
        ("docker/requirements/dev.txt", set()),
        ("docker/requirements/data.txt", {"data"}),
        ("docker/requirements/train-gpu.txt", {"train"}),
        ("docker/requirements/serve.txt", {"serve"}),
        ("docker/Dockerfile", {"data", "train", "cloud", "serve"}),
    ],
)
def test_a_change_concerns_only_the_images_that_run_it(
    tree: Path, file: str, expected: set[str]
) -> None:
    assert changed(tree, file) == expected


def test_the_fingerprint_does_not_depend_on_where_the_code_lies(tree: Path) -> None:
    for target in STAGES:
        assert fingerprint(target, tree) == fingerprint(target)


def test_a_new_import_inside_of_a_function_counts(tree: Path) -> None:
    (tree / "birdsong" / "new.py").write_text("x = 1\n")
    place = tree / "birdsong" / "ledger.py"
    place.write_text(place.read_text() + "\n\ndef late():\n    from . import new\n")
    assert tree / "birdsong" / "new.py" in image_files("data", tree)
    assert changed(tree, "birdsong/new.py") == {"data"}


def test_data_files_beside_the_modules_count(tree: Path) -> None:
    place = tree / "birdsong" / "words.txt"
    place.write_text("wing")
    assert place in image_files("data", tree)
    (tree / "birdsong" / "__pycache__").mkdir()
    (tree / "birdsong" / "__pycache__" / "x.pyc").write_text("")
    assert changed(tree, "birdsong/__pycache__/x.pyc") == set()


def test_without_requirements_of_its_own_an_image_is_known_by_the_shared_ones(tree: Path) -> None:
    (tree / "docker/requirements/data.txt").unlink()
    assert changed(tree, "docker/requirements/dev.txt") == {"data"}


def test_what_is_locked_for_an_image_is_read_with_tensorflow_under_one_name() -> None:
    assert "tensorflow" not in image_code.locked("data")
    train = image_code.locked("train")
    assert train["tensorflow"].startswith("2.21.")
    assert train["numpy"] == image_code.locked("data")["numpy"]
    assert train["kfp"] == "2.17.0"


def test_the_code_of_an_image_can_be_collected_and_says_its_fingerprint(tmp_path: Path) -> None:
    assert image_code.main(["data", str(tmp_path)]) == 0
    assert (tmp_path / "fingerprint").read_text().strip() == fingerprint("data")
    found = {
        str(file.relative_to(tmp_path))
        for file in tmp_path.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.name != "fingerprint"
    }
    code = {place.relative_to(ROOT) for place in image_files("data")}
    assert found == {str(name) for name in code if name.parts[0] != "docker"}
    assert "birdsong/training.py" not in found


@pytest.mark.parametrize(
    ("image", "target"),
    [
        ("birdsong-python-data:abc", "data"),
        ("ghcr.io:443/me/birdsong-python-train:abc-gpu", "train"),
        ("registry/birdsong-python-serve@sha256:00", "serve"),
        ("python:3.11", None),
        ("birdsong-python-other:abc", None),
    ],
)
def test_a_reference_tells_which_of_our_images_it_names(image: str, target: str | None) -> None:
    assert image_code.target_of(image) == target


def test_every_component_belongs_to_an_image() -> None:
    names = {place.stem for place in (ROOT / "components").glob("*.py")}
    assert names - {"__init__", "images"} == {s for stages in STAGES.values() for s in stages}


def test_a_source_text_is_known_by_itself_and_by_what_it_imports(tree: Path) -> None:
    text = "def f():\n    from birdsong.errors import DataError\n"
    first = image_code.source_fingerprint(text, tree)
    assert first != image_code.source_fingerprint(text + "    x = 1\n", tree)
    changed(tree, "birdsong/layouts.py")
    assert first == image_code.source_fingerprint(text, tree)
    changed(tree, "birdsong/errors.py")
    assert first != image_code.source_fingerprint(text, tree)


def test_a_text_for_people_is_in_no_fingerprint() -> None:
    for target in image_code.STAGES:
        assert not [file for file in image_code.image_files(target) if file.suffix == ".md"]
