"""How far a training is: its epochs, the best of them, and what goes on from a checkpoint."""

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from birdsong.checkpoints import Checkpoints


@dataclass(frozen=True)
class Epoch:
    """What one epoch showed; `validation_*` are None without a validation part."""

    epoch: int
    loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    seconds: float


@dataclass
class Fit:
    """A training so far; a finished one's network carries the weights of the best epoch."""

    network: Any
    started_from: str
    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    accuracy: float | None = None
    stopped_early: bool = False
    best_weights: list[NDArray[Any]] = field(default_factory=list, repr=False)
    lowest_loss: float | None = None
    last_rise: int = 0
    checkpoints: Checkpoints | None = None
    resumed_seconds: float = 0.0
    """Of the epochs that were trained before this process began."""

    def take(self, epoch: Epoch, patience: int) -> None:
        """Add an epoch, keep its weights if it is the best, and see whether to stop."""
        self.epochs.append(epoch)
        figure, loss = epoch.validation_accuracy, epoch.validation_loss
        if figure is None or loss is None:
            self.best_epoch = self.last_rise = epoch.epoch
        else:
            rise = round(figure, 2) - (-1 if self.accuracy is None else round(self.accuracy, 2))
            if rise > 0:
                self.last_rise = epoch.epoch
            lower = self.lowest_loss is None or loss < self.lowest_loss
            if rise > 0 or (rise == 0 and lower):
                self.best_epoch, self.accuracy, self.lowest_loss = epoch.epoch, figure, loss
                self.best_weights = self.network.get_weights()
        self.stopped_early = bool(patience) and epoch.epoch - self.last_rise >= patience

    def keep(self, variables: list[Any]) -> None:
        """Write a checkpoint, where there is a place for them."""
        if self.checkpoints:
            names = ("best_epoch", "accuracy", "stopped_early", "lowest_loss", "last_rise")
            state = {name: getattr(self, name) for name in names}
            state["epochs"] = [epoch.__dict__ for epoch in self.epochs]
            values = [variable.numpy() for variable in variables]
            self.checkpoints.save(len(self.epochs), state, [values, self.best_weights])

    def resume(self, variables: list[Any], label: str) -> None:
        """Go on from the newest checkpoint, where there is one."""
        found = self.checkpoints.load(2) if self.checkpoints else None
        if found is None:
            return
        state, (values, self.best_weights) = found
        self.epochs = [Epoch(**epoch) for epoch in state.pop("epochs")]
        self.resumed_seconds = sum(epoch.seconds for epoch in self.epochs)
        number = state.pop("epoch")
        for name, value in state.items():
            setattr(self, name, value)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        print(f"{label}: resumed after epoch {number}.", flush=True)
