"""Stage: decode recordings to the waveforms that training and serving share."""

from kfp.dsl import HTML, Dataset, Input, Metrics, Output, component

from components import images


@component(base_image=images.DATA, install_kfp_package=False)
def featurize(
    recordings: Input[Dataset],
    splits: Input[Dataset],
    development: Output[Dataset],
    calibration: Output[Dataset],
    test: Output[Dataset],
    preview: Output[HTML],
    metrics: Output[Metrics],
    seconds: float = 60.0,
    encoding: str = "pcm",
    no_call_source: str = "",
    max_bad_share: float = 0.05,
) -> None:
    """Decode recordings to the waveforms that training and serving share.

    Args:
        recordings: Output of ingest.
        splits: Output of split.
        seconds: Most seconds that are kept of one recording, in windows of up to 60 s.
        encoding: How shards store the 16-bit samples, pcm or flac.
        no_call_source: Folder, zip or bucket of audio without birds, for background; or empty.
        max_bad_share: Share of quarantined recordings above which the stage fails, 0 to 1.

    Returns:
        development: Windows for training and validation: index.parquet and sample shards.
        calibration: Windows that thresholds are fitted on.
        test: Windows that the reported figures are measured on.
        preview: Pictures and players of a few recordings of each species.
        metrics: Windows and hours in each part, bytes, and quarantined recordings.
    """
    from birdsong import features as library
    from birdsong import shown
    from birdsong.config import FeatureConfig

    config = FeatureConfig(
        seconds=seconds,
        encoding=encoding,
        max_bad_share=max_bad_share,
        no_call_source=no_call_source,
    )
    summary = library.featurize(
        recordings.path,
        splits.path,
        development.path,
        calibration.path,
        test.path,
        preview.path,
        config,
    )
    shown.log_metrics(metrics, summary)
