"""Do thresholds keep their promise? 1,000 draws of scores of known distributions, as a table.

Prints for each setting and rule how often the true false-positive rate is at most the target, for
all species and for the one where it is worst, and what that costs in recall. In the last settings
new windows are not like those of calibration: there no rule can keep a promise.
"""

import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from made_scores import SHIFT, WORLDS, simulate

DRAWS, SPECIES, TARGET, CONFIDENCE = 1000, 10, 0.01, 0.95


def main() -> None:
    started = time.monotonic()
    error = (CONFIDENCE * (1 - CONFIDENCE) / (DRAWS * SPECIES)) ** 0.5
    print(
        f"{DRAWS:,} draws, {SPECIES} species, target {TARGET:.0%}, confidence {CONFIDENCE:.0%}, "
        f"windows with the species {SHIFT:g} deviations higher; a share of {CONFIDENCE:.0%} over "
        f"all species is known to {2 * error:.1%}, of one species to "
        f"{2 * error * SPECIES**0.5:.1%}\n"
    )
    print("| setting | rule | rate kept | worst species | mean rate | recall |")
    print("|---|---|---:|---:|---:|---:|")
    for world in WORLDS:
        found = simulate(world, DRAWS, SPECIES, TARGET, CONFIDENCE, seed=0)
        for name, kept in found.items():
            figures = (
                "cannot be promised | | | |"
                if math.isnan(kept.coverage)
                else f"{kept.coverage:.1%} | {kept.worst:.1%} | {kept.rate:.2%} | "
                f"{kept.recall:.1%} |"
            )
            print(f"| {world.name} | {name} | {figures}")
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
