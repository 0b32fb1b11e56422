"""Stage: share recordings out for training, validation, calibration and test."""

from kfp.dsl import HTML, Dataset, Input, Metrics, Output, component

from components import images


@component(base_image=images.DATA, install_kfp_package=False)
def split(
    recordings: Input[Dataset],
    splits: Output[Dataset],
    leaks: Output[HTML],
    metrics: Output[Metrics],
    validation_fraction: float = 0.06,
    calibration_fraction: float = 0.07,
    test_fraction: float = 0.07,
    split_seed: int = 0,
    group_by: str = "author,date,place",
    split_column: str = "",
) -> None:
    """Share recordings out for training, validation, calibration and test.

    Args:
        recordings: Output of ingest.
        validation_fraction: Share that chooses the best epoch, 0 to 1.
        calibration_fraction: Share that thresholds are fitted on, 0 to 1.
        test_fraction: Share that the reported figures are measured on, 0 to 1.
        split_seed: Seed of the shares.
        group_by: What keeps recordings together: any of author,date,place; empty for nothing.
        split_column: Column of the metadata with a split of one's own; empty for none.

    Returns:
        splits: splits.parquet, the part and the group of each recording, and classes.json, the
            species in the order of the scores.
        leaks: What was kept together by what, and what could still leak.
        metrics: Recordings in each part, groups and species without a full set of parts.
    """
    from birdsong import shown
    from birdsong import splits as library
    from birdsong.config import SplitConfig

    config = SplitConfig(
        validation_fraction=validation_fraction,
        calibration_fraction=calibration_fraction,
        test_fraction=test_fraction,
        seed=split_seed,
        group_by=group_by,
        split_column=split_column,
    )
    shown.log_metrics(metrics, library.split(recordings.path, splits.path, leaks.path, config))
