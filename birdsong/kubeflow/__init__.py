"""The DAG on a Kubeflow Pipelines backend: compile for it, submit, follow, rerun, stop."""
