"""Cross-validates the network of `quick` and two fixed baselines, folds grouped by author.

    .venv/bin/python tests/bench/bench_quality.py [--source FOLDER] [--work FOLDER] [--folds N]

Each fold's figures are kept in `--work`, so a run that was stopped goes on with the next fold.
Nothing is chosen on the held recordings: the settings are those of the profile `quick`, every
training runs all its epochs, and its last weights are scored. A species that only one author
recorded stays in training and is not scored.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedGroupKFold

from birdsong import artifacts, baseline, features, recordings, training
from birdsong.config import (
    FeatureConfig,
    Hyperparameters,
    IngestConfig,
    TrainConfig,
)
from birdsong.features import FeatureSet
from birdsong.profiles import PROFILES
from birdsong.trainer import Trainer
from birdsong.training_data import Windows

REAL = Path(__file__).parents[2] / "../shared/data/birds_real"
SEED = 20_21
DRAWS = 2_000
SHORT_SECONDS = 12


def main() -> None:
    """Run the folds that are not done yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default=str(REAL), help="a source as ingest takes it")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "birdsong-cv")
    parser.add_argument("--folds", type=int, default=5)
    given = parser.parse_args()
    everything = prepare(given.source, given.work)
    authors = read_authors(everything, given.work)
    fold_of = assign_folds(everything, authors, given.folds)
    results = []
    for fold in range(given.folds):
        place = given.work / f"fold{fold}of{given.folds}.json"
        if not place.exists():
            artifacts.write_json(place, run_fold(everything, fold_of, fold))
        results.append(artifacts.read_json(place))
    print_table(everything, authors, results)


def prepare(source: str, work: Path) -> FeatureSet:
    """Ingest and featurize all recordings once, all of them as development."""
    if not (work / "development").exists():
        work.mkdir(parents=True, exist_ok=True)
        recordings.ingest(work / "recordings", work / "audit.html", IngestConfig(source=source))
        table = pd.read_parquet(work / "recordings/recordings.parquet")
        rows = pd.DataFrame({"id": table["id"], "part": "train", "group": "", "grouped_by": ""})
        names = table.drop_duplicates("label").set_index("label").sort_index()
        classes = [
            {
                "code": code,
                "scientific_name": row["scientific_name"] or code,
                "common_name": row["common_name"] or code,
            }
            for code, row in names.iterrows()
        ]
        with artifacts.create(
            work / "splits", "splits", {}, {"recordings": work / "recordings"}
        ) as made:
            rows.to_parquet(made.path / "splits.parquet")
            artifacts.write_json(made.path / "classes.json", classes)
        features.featurize(
            work / "recordings",
            work / "splits",
            work / "development",
            work / "calibration",
            work / "test",
            work / "preview.html",
            FeatureConfig(),
        )
    return FeatureSet(work / "development")


def read_authors(everything: FeatureSet, work: Path) -> np.ndarray:
    """The author of each window; a recording without one stands alone."""
    table = pd.read_parquet(work / "recordings/recordings.parquet").set_index("id")
    author = table["author"].reindex(everything.index["id"])
    return np.where(author.isna() | (author == ""), everything.index["id"], author).astype(str)


def assign_folds(everything: FeatureSet, authors: np.ndarray, count: int) -> np.ndarray:
    """The fold in which each window is held out; -1 for never."""
    labels = everything.index["label"].to_numpy()
    folds = np.full(len(labels), -1)
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=SEED)
    for fold, (_, held) in enumerate(splitter.split(labels, labels, authors)):
        folds[held] = fold
    for code in everything.codes:
        for fold in range(count):
            if (folds[labels == code] == fold).all():
                folds[labels == code] = -1
    return folds


def run_fold(everything: FeatureSet, fold_of: np.ndarray, fold: int) -> dict[str, object]:
    """Train on the other folds and tell what is said of each held window."""
    started, busy = time.monotonic(), time.process_time()
    everything.index["part"] = np.where(fold_of == fold, "held", "train")
    quick = {**PROFILES["quick"], "patience": 0}
    given = {name: quick[name] for name in Hyperparameters.model_fields if name in quick}
    settings = {name: quick[name] for name in TrainConfig.model_fields if name in quick}
    config, hyperparameters = TrainConfig(**settings), Hyperparameters(**given)
    fitted = training.fit(everything, hyperparameters, config, label=f"fold{fold}")
    held = Windows(everything, "held", 110_250)
    trainer = Trainer(config, hyperparameters, everything.codes, 22_050, 1)
    trainer.network.set_weights(fitted.network.get_weights())
    said = {"network": training.score_windows(trainer, held).argmax(1).tolist()}
    train = everything.select("train")
    for recipe in ("plain", "rich"):
        plain = baseline.fit(everything, train, recipe=recipe)
        said[recipe] = plain.scores(everything, held.rows.tolist()).argmax(1).tolist()
    return {
        "rows": held.rows.tolist(),
        "said": said,
        "seconds": round(time.monotonic() - started),
        "core_seconds": round(time.process_time() - busy),
    }


def print_table(everything: FeatureSet, authors: np.ndarray, results: list[dict]) -> None:
    """Accuracy and macro-F1 with 95 % intervals, bootstrapped by author."""
    rows = np.concatenate([result["rows"] for result in results])
    column = {code: number for number, code in enumerate(everything.codes)}
    truth = everything.index["label"].map(column).to_numpy()[rows]
    of_author = [np.flatnonzero(authors[rows] == name) for name in sorted(set(authors[rows]))]
    print(
        f"\n{len(rows)} of {len(everything)} recordings held out once, {len(of_author)} authors, "
        f"{len(set(truth))} species; {sum(r['seconds'] for r in results)} s, "
        f"{sum(r.get('core_seconds', 0) for r in results)} core-seconds\n"
    )
    print("| way | accuracy | macro-F1 |\n|---|---|---|")
    names = {
        "network": "network of `quick`, from scratch",
        "rich": "logistic regression, rich log-mel statistics",
        "plain": "logistic regression, plain log-mel statistics",
    }
    kept = {}
    for way, name in names.items():
        said = np.concatenate([result["said"][way] for result in results])
        random = np.random.default_rng(0)
        draws = []
        for _ in range(DRAWS):
            picked = np.concatenate(
                [of_author[n] for n in random.integers(len(of_author), size=len(of_author))]
            )
            draws.append(figures(truth[picked], said[picked]))
        low, high = np.percentile(draws, [2.5, 97.5], axis=0)
        value = figures(truth, said)
        cells = [f"{v:.3f} ({a:.3f} to {b:.3f})" for v, a, b in zip(value, low, high, strict=True)]
        print(f"| {name} | {cells[0]} | {cells[1]} |")
        kept[way] = said == truth
    differences = []
    random = np.random.default_rng(0)
    for _ in range(DRAWS):
        picked = np.concatenate(
            [of_author[n] for n in random.integers(len(of_author), size=len(of_author))]
        )
        differences.append(kept["network"][picked].mean() - kept["rich"][picked].mean())
    low, high = np.percentile(differences, [2.5, 97.5])
    # Short clips may all come from one source, which a network could learn to know by its cuts.
    longest = everything.index.groupby("label")["samples"].transform("max").to_numpy()[rows]
    short = longest < SHORT_SECONDS * everything.config.sample_rate
    for what, part in (("only clips below", short), ("longer recordings than", ~short)):
        if part.any():
            each = ", ".join(f"{way} {right[part].mean():.3f}" for way, right in kept.items())
            print(
                f"\n{len(set(truth[part]))} species with {what} {SHORT_SECONDS} s, "
                f"{part.sum()} recordings: accuracy {each}"
            )
    print(f"\nNetwork less rich baseline, accuracy, paired: {low:+.3f} to {high:+.3f} (95 %)")
    print(json.dumps({"seed": SEED, "folds": len(results), "quick": PROFILES["quick"]}))


def figures(truth: np.ndarray, said: np.ndarray) -> tuple[float, float]:
    """Accuracy, and F1 averaged over the species that occur."""
    labels = np.unique(truth)
    return float(np.mean(truth == said)), float(
        f1_score(truth, said, labels=labels, average="macro", zero_division=0)
    )


if __name__ == "__main__":
    main()
