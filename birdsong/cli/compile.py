"""`compile`: the DAG for a Kubeflow Pipelines backend."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

SUFFIXES = (".yaml", ".yml", ".json")


def compile_pipeline(
    out: Annotated[
        Path, typer.Argument(metavar="OUT.yaml", help="File to write: .yaml, .yml or .json.")
    ],
) -> None:
    """Write the DAG in KFP's intermediate representation, as every KFP backend takes it."""
    from birdsong.errors import ConfigError, StorageError

    if out.suffix not in SUFFIXES:
        raise ConfigError(
            f"{out}: the compiled pipeline is written as {', '.join(SUFFIXES)}, "
            f"not {out.suffix or 'without an ending'}."
        )
    from kfp import compiler

    from pipeline import birdsong

    aside = out.with_name(f".{out.stem}.writing{out.suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            # JSON is the same document; that kfp may drop it one day helps nobody here.
            warnings.filterwarnings("ignore", "Compiling to JSON", DeprecationWarning)
            compiler.Compiler().compile(birdsong, str(aside))
        aside.replace(out)
    except OSError as error:
        raise StorageError(f"{out} cannot be written ({error.strerror}).") from error
    finally:
        aside.unlink(missing_ok=True)
    typer.echo(f"Wrote {out}: pipeline {birdsong.name}.")
