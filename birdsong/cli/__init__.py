"""The commands, one file per group; `birdsong` and `python pipeline.py` are the same program.

Heavy packages are imported inside the commands, so that `--help` answers at once.
"""
