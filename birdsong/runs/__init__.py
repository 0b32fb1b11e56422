"""Runs of the compiled DAG on this machine: records, the engine over kfp.local, plans."""
