"""Errors as one line: ours that the command line answers, and others'."""


class UserError(ValueError):
  """A mistake that the person at the command line can mend.

  The message is one line that names the culprit (flag, key, file, step) and the
  mend. `train.py` prints it and exits with status 2, without a traceback; any
  other exception is a fault of the program and keeps its traceback.
  """


def first_line(error: BaseException) -> str:
  """The first line of an error's text, or its type where it has none."""
  return (str(error).strip().splitlines() or [type(error).__name__])[0]
