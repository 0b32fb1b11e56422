"""What steps cost, made by hand."""

from birdsong.cost import Billed, Part, Rate

RATE = Rate(
    usd_per_hour=2.03,
    date="2026-07-02",
    source="a price list",
    # As long as that of a file at a commit.
    where=f"https://prices.example/{'0123456789abcdef' * 8}.json",
)
HERE = Part(step="train", machine="x86_64, 2 cores, no GPU", seconds=125.4)
NO_SEARCH = Part(step="tune", machine="", seconds=0, trials=0)


def billed(step: str, trained: int, paid: int, trials: int | None = None, **more: object) -> Part:
    """A step of jobs on SageMaker."""
    told = {
        "job": f"birdsong-{step}",
        "instance": "ml.g5.4xlarge",
        "region": "us-east-1",
        "seconds": paid,
        "interruptions": 0,
        "jobs": trials or 1,
        "unknown": 0,
        "rate": RATE,
        **more,
    }
    machine = "SageMaker, ml.g5.4xlarge in us-east-1, managed spot"
    return Part(step=step, machine=machine, seconds=trained, trials=trials, billed=Billed(**told))
