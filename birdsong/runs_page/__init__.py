"""The page of runs: a list, the DAG of each run, logs, previews and buttons, in a browser."""
