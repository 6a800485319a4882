"""Exported models of every format that can be read back."""

from pathlib import Path

from spectral_jax.export.trained import Trained


def load_exported(path: str | Path) -> Trained:
  """Reads a model that was exported, or a GPT-2.

  The file may be anybody's: its sizes are checked, and nothing in it is run.

  Args:
    path: what `python -m spectral_jax export` wrote with --format=safetensors
      or gpt2; or a folder of Hugging Face's with a GPT-2 in it.

  Returns:
    The model, its parameters and, where the file has one, its tokenizer.

  Raises:
    UserError: for a file that cannot be read; one line says why.
    ImportError: without the library safetensors.

  Example:
    >>> trained = load_exported('small.safetensors')  # doctest: +SKIP
    >>> tokens = trained.tokenizer.encode('ROMEO:')[None]  # doctest: +SKIP
    >>> logits = trained.model.apply(  # doctest: +SKIP
    ...   {'params': trained.params}, tokens
    ... )
  """
  # Not above: the package's face imports this, and safetensors is optional.
  from spectral_jax.export import coefficients, gpt2
  from spectral_jax.export.tensor_file import TensorFile

  path = Path(path).expanduser()
  if path.is_dir():
    return gpt2.read(path)
  file = TensorFile.read(path)
  if coefficients.KEY in file.metadata:
    return coefficients.read(file)
  return gpt2.read(path)
