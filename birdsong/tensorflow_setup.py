"""TensorFlow and Keras, imported in one place without the lines they print on the way.

TensorFlow 2.21 writes about CPU instructions and absent CUDA drivers to the process's standard
error while it loads and looks for devices, whatever TF_CPP_MIN_LOG_LEVEL says. In a step's log they
would stand before our own lines, so standard error is held back for that moment alone, and shown
when it fails.
"""

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def _held_back_stderr() -> Iterator[None]:
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        original = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(original, held.read())
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

with _held_back_stderr(), warnings.catch_warnings():
    # Of third parties at import: deprecations inside TensorFlow's and Keras's own code.
    warnings.simplefilter("ignore")
    import keras
    import tensorflow as tf

    tf.config.list_physical_devices()

__all__ = ["keras", "tf", "tfio_audio"]


def tfio_audio() -> Any:
    """The module `tensorflow_io.audio`, whose functions here are plain TensorFlow graphs.

    The last release of tensorflow-io has a compiled part built for TensorFlow 2.16. It does not
    load beside 2.21 and the import warns about it twice; masks do not need it.
    """
    with _held_back_stderr(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="unable to load libtensorflow_io_plugins")
        warnings.filterwarnings("ignore", message="file system plugins are not loaded")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        import tensorflow_io as tfio

    return tfio.audio
