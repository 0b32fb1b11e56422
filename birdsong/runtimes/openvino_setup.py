"""OpenVINO, imported in one place without its telemetry.

Importing openvino 2026 or nncf reports the import to Google Analytics wherever the package
openvino_telemetry is installed, which both require, and writes an identity into the user's home.
Both do without it when it cannot be imported, so here it cannot.
"""

import sys
from types import ModuleType
from typing import Any, cast

cast(dict[str, ModuleType | None], sys.modules)["openvino_telemetry"] = None

import openvino  # noqa: E402

__all__ = ["nncf", "openvino"]


def nncf() -> Any:
    """The quantiser; its lines of progress are held back."""
    import logging

    import nncf as found

    found.set_log_level(logging.ERROR)
    return found
