"""Errors that dcryo raises on purpose.

Every one of them is a sentence for the user: what is wrong, where (file, field, row), and what to do.
The command line prints it and exits with ``exit_code``; anything else that escapes is our bug (exit 1).
"""


class DcryoError(Exception):
    """Base of the errors that name their own remedy."""

    exit_code = 2


class InputError(DcryoError):
    """A file, a store, a column or an option that cannot be used as it is."""


class DamagedStoreError(InputError):
    """A store whose chunks are missing or fail their checksum."""


class PlanError(DcryoError):
    """A job that does not fit the memory or the disk it may use."""


class ClusterError(DcryoError):
    """A cluster that does not answer, or does not get a job done; what was committed is kept."""
