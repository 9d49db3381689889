"""Every failure a user can cause, in one tree.

    FundusError            exit 1   one line on stderr, never a traceback
      SourceError                   SRC or a table of grades cannot be used
      PhotoError                    one photograph cannot be read; the message is the reason that rejects.csv keeps
      CacheError                    a cache folder is missing, incomplete, foreign or damaged
      OutputError                   a command may not write, or cannot write, where it was told to
      StoreError                    a file behind a URL cannot be read or written, or needs a package
      RunError                      a run folder, checkpoint or weight file cannot be used
      ClusterError                  a Dask cluster cannot do the work
      UsageError           exit 2   a value that is not allowed; a ValueError too
      LoaderMissing        exit 3   the loader asked for is not installed; the message ends in its `pip install` line

Foreign exceptions are caught where they arise and raised again as one of these, `from` their cause. Commands print the
message and end with the exit code: pipeline.command_line.
"""


class FundusError(Exception):
    """Its `message` is one line: what is wrong, where, what to do."""

    exit_code = 1
    """Of a command that raises it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SourceError(FundusError):
    pass


class PhotoError(FundusError):
    pass


class CacheError(FundusError):
    pass


class OutputError(FundusError):
    pass


class StoreError(FundusError):
    pass


class RunError(FundusError):
    pass


class ClusterError(FundusError):
    pass


class UsageError(FundusError, ValueError):
    exit_code = 2


class LoaderMissing(FundusError):
    exit_code = 3
