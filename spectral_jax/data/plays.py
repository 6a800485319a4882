"""The nine plays of Tiny Shakespeare, from Markdown to its format."""

import re

# The plays of Tiny Shakespeare in its order; of the last it has a part only.
PLAYS = (
  'roman/coriolanus',
  'histories/richard-iii',
  'histories/richard-ii',
  'tragedies/romeo-and-juliet',
  'histories/henry-vi-part-3',
  'romances/a-winter-s-tale',
  'problems/measure-for-measure',
  'problems/the-taming-of-the-shrew',
  'romances/the-tempest',
)

# Slips of the Markdown edition that would break the form of a speech.
_SLIPS = (
  ('sha$l', 'shall'),
  ('& c.', '&c.'),
  ('Senators, & C ', '\n**Senators**\n'),
  ('ALL SERVING-MEN ', '\n**ALL SERVING-MEN**\n'),
  ('Ghost\n\n**of ', '**Ghost of '),
  ('Ghosts\n\n**of ', '**Ghosts of '),
  ('**As long as you or I**  \n', 'As long as you or I '),
  ("ARIEL'S song.  \n", ''),
  ('_Burthen _', '_Burthen '),
  ('EPILOGUE  \nSPOKEN BY PROSPERO  \n', '**PROSPERO**\n'),
)


def render_play(markdown: str) -> str:
  r"""Renders a play's Markdown in the format of Tiny Shakespeare.

  Headings and stage directions go; a speech goes on after a direction in its
  midst. Words in italics within a line belong to the speech and stay.

  Args:
    markdown: headings `# …`, speakers `**…**`, directions `_…_` on lines of
      their own, with a blank line between paragraphs.

  Returns:
    `SPEAKER:\nline\nline\n`, with a blank line between speeches.

  >>> render_play('**ROMEO**  \n_Aside_  \nShe speaks.')
  'ROMEO:\nShe speaks.\n'
  """
  for slip, mended in _SLIPS:
    markdown = markdown.replace(slip, mended)
  speeches: list[list[str]] = []
  speaking = False  # text under a heading, before a speaker, is no speech
  for paragraph in re.split(r'\n\s*\n', markdown):
    if paragraph.lstrip().startswith('#'):
      speaking = False
      continue
    paragraph = re.sub(r'^_[^_]*_\s*$', '', paragraph, flags=re.MULTILINE)
    paragraph = re.sub(r'_(?:\\\[)?([^_\]]*)\]?_', r'\1', paragraph)
    paragraph = re.sub(r'\\(\W)', r'\1', paragraph)
    lines = [line.strip() for line in paragraph.split('\n') if line.strip()]
    if lines and (speaker := re.fullmatch(r'\*\*(.+)\*\*', lines[0])):
      lines[0] = f'{speaker[1]}:'
      speeches.append(lines)
      speaking = True
    elif speaking:
      speeches[-1] += lines
  return '\n'.join('\n'.join([*speech, '']) for speech in speeches)
