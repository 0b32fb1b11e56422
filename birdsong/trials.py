"""The trials of one search, in a SQLite file that several processes of one machine share.

A trial is claimed under a lock, so that none is done twice and their number is exact. While it
runs its process holds another lock, which the system lets go however the process ends: so a trial
that was under way at a kill is known as such at once, and is done again, once.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import optuna

FIRST_EPOCHS = 2
"""Epochs that every trial gets before it may be pruned."""

FIRST_TRIALS = 4
"""Trials that run to their end before others are held against them."""

GIVE_UP_AFTER = 5
"""When so many trials ran and each of them failed, the others would too."""

ERROR, AGAIN, MACHINE = "error", "again", "machine"
"""Attributes of a trial: why it failed, the number of the killed trial that it repeats, and what
computed it."""

KILLED = (
    "its process ended twice without a word; most often the system killed it for lack of memory"
)

_POLL_SECONDS = 0.5
_BUSY_SECONDS = 60
"""How long a process waits for SQLite while others write."""


class Trials:
    """A search that goes on where it was.

    Args:
        folder: Where its SQLite file and locks are; made where it is absent.
        distributions: What is searched, as Optuna's distributions.
        start: Values of the first trial.
        total: How many trials are wanted; may grow from one call to the next.
        seed: Seed of the sampler: the same seed draws the same first trials.
    """

    def __init__(
        self,
        folder: Path,
        distributions: "Mapping[str, optuna.distributions.BaseDistribution]",
        start: Mapping[str, Any],
        total: int,
        seed: int,
    ) -> None:
        import optuna

        self.folder, self.total = folder, total
        self._distributions, self._seed = dict(distributions), seed
        self._held: int | None = None
        folder.mkdir(parents=True, exist_ok=True)
        # Shared by all that use the search, so that none removes it under another's hands.
        self._user: int | None = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._user, fcntl.LOCK_SH)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self._alone():
            self.study = optuna.create_study(
                study_name="search",
                storage=optuna.storages.RDBStorage(
                    f"sqlite:///{folder / 'trials.sqlite'}",
                    engine_kwargs={"connect_args": {"timeout": _BUSY_SECONDS}},
                ),
                load_if_exists=True,
                direction="maximize",
                pruner=optuna.pruners.MedianPruner(FIRST_TRIALS, FIRST_EPOCHS),
            )
            if not self.study.get_trials(deepcopy=False):
                self.study.enqueue_trial(dict(start))

    def claim(self) -> "optuna.Trial | None":
        """The next trial to run, to be given to `finish`; None where nothing is left to do.

        Waits while other processes run the last ones: one of them may be killed.
        """
        while True:
            with self._alone():
                running = self._running()
                done = self.done()
                if len(done) + running < self.total and not self._hopeless(done):
                    return self._ask()
                if not running:
                    return None
            time.sleep(_POLL_SECONDS)

    def finish(self, trial: "optuna.Trial", outcome: "float | optuna.TrialPruned | str") -> None:
        """Record how a trial ended.

        Args:
            trial: From `claim`.
            outcome: Its value, that it was pruned, or why it failed.
        """
        from optuna.trial import TrialState

        # Alone: another process could see it running, then its lock free, and take it for killed.
        with self._alone():
            if isinstance(outcome, str):
                trial.set_user_attr(ERROR, outcome)
                self.study.tell(trial.number, state=TrialState.FAIL)
            elif isinstance(outcome, float):
                self.study.tell(trial.number, outcome)
            else:
                self.study.tell(trial.number, state=TrialState.PRUNED)
            self.let_go()

    def let_go(self) -> None:
        """Stop holding the claimed trial; one without an outcome counts as killed."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def done(self) -> "list[optuna.trial.FrozenTrial]":
        """Trials that came to an end: complete, pruned or failed; killed ones do not count."""
        again = self._repeated()
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state.is_finished() and trial.number not in again
        ]

    def rows(self) -> list[dict[str, Any]]:
        """All trials as `trials.json` holds them."""
        again = self._repeated()
        return [_row(trial, trial.number in again) for trial in self.study.get_trials()]

    def close(self) -> None:
        """Let go of everything; a claimed trial without an outcome counts as killed."""
        self.let_go()
        if self._user is not None:
            os.close(self._user)
            self._user = None

    def remove(self) -> None:
        """Delete the folder, unless another process still uses it, and close."""
        if self._user is None:
            return
        try:
            fcntl.flock(self._user, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        else:
            shutil.rmtree(self.folder)
            with contextlib.suppress(OSError):  # others are kept beside it
                self.folder.parent.rmdir()
        finally:
            self.close()

    def _ask(self) -> "optuna.Trial":
        import optuna

        trials = self.study.get_trials(deepcopy=False)
        # By the trial's place, so that a search that goes on after a kill draws as it would have;
        # one sampler that starts anew would draw the first again.
        place = len(trials) - len(self._repeated())
        seed = int(np.random.SeedSequence([self._seed, place]).generate_state(1)[0])
        self.study.sampler = optuna.samplers.TPESampler(seed=seed)
        trial = self.study.ask(self._distributions)
        held = os.open(self._lock_of(trial.number), os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(held, fcntl.LOCK_EX)
        self._held = held
        return trial

    def _running(self) -> int:
        """How many trials run; those whose process is gone are put in line again, once."""
        from optuna.trial import TrialState

        running = 0
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._is_held(trial.number):
                running += 1
                continue
            if AGAIN not in trial.user_attrs and trial.number not in self._repeated():
                # First the second attempt, then the end of this one: nothing is lost in between.
                self.study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})
            self.study.tell(trial.number, state=TrialState.FAIL)
        return running

    def _repeated(self) -> set[int]:
        """Numbers of the killed trials that stand there a second time."""
        trials = self.study.get_trials(deepcopy=False)
        return {trial.user_attrs[AGAIN] for trial in trials if AGAIN in trial.user_attrs}

    @staticmethod
    def _hopeless(done: "list[optuna.trial.FrozenTrial]") -> bool:
        from optuna.trial import TrialState

        failed = sum(trial.state == TrialState.FAIL for trial in done)
        return bool(failed == len(done) >= GIVE_UP_AFTER)

    def _lock_of(self, number: int) -> Path:
        return self.folder / f"trial-{number}.lock"

    def _is_held(self, number: int) -> bool:
        try:
            held = os.open(self._lock_of(number), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(held)
        return False

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from claiming meanwhile."""
        with (self.folder / "claim.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _row(trial: "optuna.trial.FrozenTrial", repeated: bool) -> dict[str, Any]:
    state = {"fail": "failed"}.get(trial.state.name.lower(), trial.state.name.lower())
    return {
        "number": trial.number,
        "state": "killed" if repeated else state,
        "error": trial.user_attrs.get(ERROR, KILLED) if state == "failed" and not repeated else "",
        "accuracy": trial.value if state != "failed" else None,
        "by_epoch": [value for _, value in sorted(trial.intermediate_values.items())],
        "values": trial.params,
        "seconds": trial.duration.total_seconds() if trial.duration else None,
        "machine": trial.user_attrs.get(MACHINE, ""),
    }
