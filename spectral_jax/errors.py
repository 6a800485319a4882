"""The one error that the command line answers with one line."""


class UserError(ValueError):
  """A mistake that the person at the command line can mend.

  The message is one line that names the culprit (flag, key, file, step) and the
  mend. `train.py` prints it and exits with status 2, without a traceback; any
  other exception is a fault of the program and keeps its traceback.
  """
