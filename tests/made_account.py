"""What the tests on a real account of AWS are told, by variables; see the files in tests/aws."""

import os

import pytest


def told(needed: dict[str, str]) -> dict[str, str]:
    """The caller's values of these variables.

    Args:
        needed: Name to what it shall be.
    """
    missing = [f"{name} ({what})" for name, what in needed.items() if not os.environ.get(name)]
    if missing:
        pytest.fail(f"Set {'; '.join(missing)}, and credentials of the account.", pytrace=False)
    return {name: os.environ[name] for name in needed}
