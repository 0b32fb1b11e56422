"""Puts the folder `tests` on the path, so that tests of all folders can share what they make."""
