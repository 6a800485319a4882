"""Rendering of plays."""

import pytest

from spectral_jax.data.plays import render_play


@pytest.mark.parametrize(
  ('markdown', 'expected'),
  [
    ('# Play\n\n## ACT I\n\n### SCENE I. Rome.\n', ''),
    ('**MENENIUS**  \nAy, sir;  \nwell.', 'MENENIUS:\nAy, sir;\nwell.\n'),
    ('**A**  \nOne.\n\n**B**  \nTwo.', 'A:\nOne.\n\nB:\nTwo.\n'),
    # A direction in the midst of a speech: between paragraphs, in its first
    # line, over several lines, and the text after it still speaks.
    ('**A**  \nOne.\n\n_Shouts within_\n\nTwo.', 'A:\nOne.\nTwo.\n'),
    ('**A**  \n_\\[Aside to B]_  \nOne.', 'A:\nOne.\n'),
    ('**A**  \nOne.\n\n_Enter B,\nand C_\n\nTwo.', 'A:\nOne.\nTwo.\n'),
    ('**A**  \nTwice _\\[by them]_  \ncensor', 'A:\nTwice by them\ncensor\n'),
    ('**A**  \nThe _very_ day.', 'A:\nThe very day.\n'),
    ("**A**  \n'I pray'\\--Plague", "A:\n'I pray'--Plague\n"),
    ('**A**  \nOne.\n\n### SCENE II. In\n\nYorkshire.', 'A:\nOne.\n'),
    ('Ghost\n\n**of Anne**  \nDream.', 'Ghost of Anne:\nDream.\n'),
  ],
)
def test_render_play(markdown: str, expected: str) -> None:
  assert render_play(markdown) == expected
