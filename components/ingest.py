"""Stage: find the recordings of a source, read their metadata and audit them."""

from kfp.dsl import HTML, Dataset, Metrics, Output, component

from components import images


@component(base_image=images.DATA, install_kfp_package=False)
def ingest(
    recordings: Output[Dataset],
    audit: Output[HTML],
    metrics: Output[Metrics],
    source: str = "demo:",
    layout: str = "auto",
    max_bad_share: float = 0.05,
    snapshot: bool = False,
) -> None:
    """Find the recordings of a source, read their metadata and audit them.

    Args:
        source: Folder, zip, s3://bucket/prefix, gs://bucket/prefix (or a .zip there) or demo:.
        layout: auto, birdclef2020, birdclef2021, birdclef2022 or folders (one per species).
        max_bad_share: Share of bad recordings above which the stage fails, 0 to 1.
        snapshot: Also pack the original bytes into the artifact.

    Returns:
        recordings: recordings.parquet, one row for each good recording; problems.parquet and
            duplicates.parquet, what was left out and why.
        audit: What is in the source, and what is wrong with it.
        metrics: Counts of recordings, species, hours and problems.
    """
    from birdsong import recordings as library
    from birdsong import shown
    from birdsong.config import IngestConfig

    config = IngestConfig(
        source=source, layout=layout, max_bad_share=max_bad_share, snapshot=snapshot
    )
    shown.log_metrics(metrics, library.ingest(recordings.path, audit.path, config))
