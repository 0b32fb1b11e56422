"""From a bucket of labelled bird recordings to a deployed, thresholded birdsong classifier."""

__version__ = "0.1.0"
