"""Errors that a user can act on: each says what came, what was expected and what to do next."""


class BirdsongError(Exception):
    """Base of all errors that birdsong raises on purpose; the command line shows only its text."""


class ConfigError(BirdsongError, ValueError):
    """A setting is unknown, out of its range or contradicts another one."""


class DataError(BirdsongError, ValueError):
    """Recordings, tables or artifacts are missing, broken or not what the stage needs."""


class StorageError(BirdsongError, OSError):
    """A place cannot be read or written: absent, no permission, no credentials, no network."""


class UnreachableError(StorageError):
    """A place does not answer now; the same request may succeed a moment later."""


class RefusedError(BirdsongError):
    """A service refuses for a reason that another attempt does not mend: permission, quota."""


class JobError(BirdsongError):
    """A job elsewhere failed or was stopped."""
