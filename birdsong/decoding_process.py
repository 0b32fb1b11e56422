"""The process that `birdsong.decoding` starts: it forks a child for a recording, or for a few.

It has one thread, has loaded the codecs and nothing else, and keeps nothing of a recording. A child
whose reader hangs up is killed; when the starter is gone, all end.
"""

import contextlib
import ctypes
import json
import math
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any

from birdsong import audio
from birdsong.config import FeatureConfig
from birdsong.decoding import DONE, ENDED, ERROR, HEADER, LONGEST_TEXT, WINDOW
from birdsong.errors import DataError

_NOBODY = 65_534
"""The user without rights; a container without the right to change users keeps its own."""

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


def main(arguments: list[str]) -> int:
    """Serve the socket with the given descriptor until it closes."""
    control = socket.socket(fileno=int(arguments[0]))
    with contextlib.suppress(ImportError):
        import av

        av.logging.set_level(av.logging.PANIC)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    waiting.register(wake, select.POLLIN)
    children: dict[int, tuple[int, socket.socket]] = {}  # by descriptor of their socket
    while True:
        for descriptor, _ in waiting.poll():
            if descriptor == control.fileno():
                if not _begin(control, waiting, children):
                    # They would end by themselves, but as orphans nobody may wait for.
                    for pid, _ in children.values():
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
                    return 0
            elif descriptor == wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
                _reap(waiting, children)
            elif descriptor in children:
                # Nobody reads any more. Reaped when it has ended, so the number is still its own.
                waiting.unregister(descriptor)
                os.kill(children[descriptor][0], signal.SIGKILL)


def _begin(
    control: socket.socket, waiting: select.poll, children: dict[int, tuple[int, socket.socket]]
) -> bool:
    """Fork a child for a recording; False where there will be none."""
    message, (*descriptors,), _, _ = socket.recv_fds(control, 65_536, 2)
    if len(descriptors) != 2:
        return False
    file, answers = descriptors[0], socket.socket(fileno=descriptors[1])
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            control.close()
            for _, other in children.values():
                other.close()
            _work(file, answers, json.loads(message), parent)
            status = 0
        except BaseException as error:
            with contextlib.suppress(BaseException):
                _send(answers, ERROR, f"crashed: {type(error).__name__}.".encode())
        finally:
            os._exit(status)
    os.close(file)
    # A hang-up is told without being asked for.
    waiting.register(answers, 0)
    children[answers.fileno()] = pid, answers
    return True


def _reap(waiting: select.poll, children: dict[int, tuple[int, socket.socket]]) -> None:
    for descriptor, (pid, answers) in list(children.items()):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found == 0:
            continue
        with contextlib.suppress(KeyError):
            waiting.unregister(descriptor)
        ended = os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True)
        # After what the child sent. A reader that is gone, or slow, needs no reason.
        answers.setblocking(False)
        with contextlib.suppress(OSError):
            answers.send(HEADER.pack(ENDED, 0.0, len(ended)) + ended, socket.MSG_NOSIGNAL)
        answers.close()
        del children[descriptor]


def _work(file: int, answers: socket.socket, job: dict[str, Any], parent: int) -> None:
    """Decode a recording, and those that the reader sends after it, until one has a fault."""
    _confine(job["limits"], job["recordings"], parent)
    for left in reversed(range(job["recordings"])):
        _allow(job["limits"])
        if not _decode(file, answers, job) or not left:
            return
        with contextlib.suppress(OSError):  # libsndfile has closed it, PyAV not
            os.close(file)
        message, (*descriptors,), _, _ = socket.recv_fds(answers, 65_536, 1)
        if len(descriptors) != 1:
            return
        (file,), job = descriptors, json.loads(message)


def _confine(limits: dict[str, float], recordings: int, parent: int) -> None:
    """Bound memory, time and files of this process, and let it end with its parent."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Codecs complain there of every broken byte.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        have = int(file.read().split()[0]) * resource.getpagesize()
    if os.geteuid() == 0:
        # As in SageMaker's containers. It has all that it needs as open descriptors.
        with contextlib.suppress(PermissionError):
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    # After the change of user, which would undo the first of them.
    control = ctypes.CDLL(None).prctl
    control(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    control(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    control(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    _limit(resource.RLIMIT_AS, have + int(limits["decode_bytes"]))
    # One second of CPU more until SIGKILL, so that SIGXCPU names the reason.
    _limit(resource.RLIMIT_CPU, math.ceil(limits["decode_seconds"]) * recordings + 1)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)


def _limit(kind: int, value: int) -> None:
    _, hardest = resource.getrlimit(kind)
    if hardest != resource.RLIM_INFINITY:
        value = min(value, hardest)
    resource.setrlimit(kind, (value, value))


def _allow(limits: dict[str, float]) -> None:
    """Let the next recording have its time on the CPU.

    The reader's clock ends what waits for ever; this ends what computes for ever.
    """
    _, hardest = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(time.process_time()) + math.ceil(limits["decode_seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (min(soft, hardest), hardest))


def _decode(file: int, answers: socket.socket, job: dict[str, Any]) -> bool:
    """Send the windows of a recording; False where it has a fault."""
    bounds: Any = {
        name: math.inf if value is None else value for name, value in job["bounds"].items()
    }
    config = FeatureConfig.model_construct(**job["config"])
    windows = audio.windows(
        file,
        config,
        float(job["overlap_seconds"]),
        audio.Bounds(**bounds),
    )
    try:
        for window in windows:
            _send(answers, WINDOW, window.samples.tobytes(), window.start_seconds)
        _send(answers, DONE, b"")
        return True
    except DataError as error:
        _send(answers, ERROR, str(error).encode()[:LONGEST_TEXT])
    except MemoryError:
        _send(answers, ERROR, b"memory: decoding it takes more than the memory that is allowed.")
    return False


def _send(answers: socket.socket, kind: bytes, payload: bytes, start: float = 0.0) -> None:
    answers.sendall(HEADER.pack(kind, start, len(payload)))
    answers.sendall(payload)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
