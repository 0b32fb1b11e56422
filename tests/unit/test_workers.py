"""Work on all cores: order, flat memory, and a clear word when a worker is killed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from birdsong import workers
from birdsong.errors import BirdsongError, DataError


def square(number: int) -> int:
    time.sleep(0.01 * (number % 3))
    return number * number


def fail_on_five(number: int) -> int:
    if number == 5:
        raise DataError("five is not allowed")
    return number


def die_on_five(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_the_order_of_the_items(count):
    assert list(workers.in_order(square, range(20), count)) == [n * n for n in range(20)]


@pytest.mark.parametrize("count", [1, 2])
def test_items_are_taken_only_as_fast_as_results_are(count):
    taken = 0

    def items():
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    results = workers.in_order(square, items(), count)
    next(results)
    assert taken <= 3 * count
    results.close()
    assert taken <= 3 * count


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_of_the_function_comes_through(count):
    with pytest.raises(DataError, match="five is not allowed"):
        list(workers.in_order(fail_on_five, range(20), count))


def test_a_killed_worker_is_a_clear_error_and_not_a_hang():
    started = time.monotonic()
    with pytest.raises(BirdsongError, match=r"died.*lack of memory.*item 5"):
        list(workers.in_order(die_on_five, range(200), 2, describe=lambda n: f"item {n}"))
    assert time.monotonic() - started < 30


def test_a_script_without_a_main_guard_is_not_run_again_by_its_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "print('started')\n"
        "from birdsong.workers import in_order\n"
        "print(sum(in_order(abs, range(8), 2)))\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["started", "28"]


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "from birdsong.workers import in_order\n"
        "for pid in in_order(pid_of, range(50), 2):\n"
        "    print(pid, flush=True)\n".replace("pid_of", "slow.pid_of")
    )
    (tmp_path / "slow.py").write_text(
        "import os, time\ndef pid_of(_):\n    time.sleep(0.2)\n    return os.getpid()\n"
    )
    script.write_text("import slow\n" + script.read_text())
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    pids = {int(parent.stdout.readline()) for _ in range(4)}
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_running(pid) for pid in pids)


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("text", "most"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 10_000)]
)
def test_the_quota_of_a_container_limits_the_cores(tmp_path, text, most):
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    assert 1 <= workers.count_cores(quota) <= most


def test_without_a_quota_all_cores_count(tmp_path):
    assert workers.count_cores(tmp_path / "absent") == len(os.sched_getaffinity(0))
