"""Errors as one line: ours that the command line answers, and others'."""


class UserError(ValueError):
  """A mistake that the person at the command line can mend.

  The message is one line that names the culprit (flag, key, file, step) and the
  mend. `train.py` prints it and exits with status 2, without a traceback; any
  other exception is a fault of the program and keeps its traceback.
  """

  def __init__(self, message: str) -> None:
    # What it quotes from a file may hold line ends, and orders to a terminal.
    super().__init__(
      ''.join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    )


def first_line(error: BaseException) -> str:
  """The first line of an error's text, or its type where it has none."""
  return (str(error).strip().splitlines() or [type(error).__name__])[0]
