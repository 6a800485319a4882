"""Text corpora, tokenizers and the input pipeline."""
