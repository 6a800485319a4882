// Heat maps of coefficients, on canvases, in one logarithmic scale.

// Viridis, at equal steps; the colours between are mixed.
const COLOURS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37],
];
const LEFT_OUT = 0.01; // of the smallest values, which would use up the scale

function colour(part) {
  const place = Math.min(Math.max(part, 0), 1) * (COLOURS.length - 1);
  const low = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[low].map((value, i) =>
    Math.round(value + (place - low) * (COLOURS[low + 1][i] - value)),
  );
}

// Cells are rows of numbers between 0 and 1, or null.
function paint(canvas, cells) {
  canvas.height = cells.length;
  canvas.width = cells[0].length;
  const context = canvas.getContext('2d');
  const image = context.createImageData(canvas.width, canvas.height);
  cells.flat().forEach((part, i) => {
    if (part !== null) image.data.set([...colour(part), 255], 4 * i);
  });
  context.putImageData(image, 0, 0);
}

function figure({name, shape, stored, cells}, part) {
  const element = document.createElement('figure');
  const canvas = document.createElement('canvas');
  const caption = document.createElement('figcaption');
  const title = document.createElement('b');
  title.textContent = name;
  const kept = `${shape[0]} × ${shape[1]}, ${Math.round(100 * stored)} % stored`;
  caption.append(title, ` ${kept}`);
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', `Heat map of ${name}, ${kept}`);
  paint(canvas, cells.map((row) => row.map(part)));
  element.append(canvas, caption);
  return element;
}

export function drawSpectra(spectra) {
  const values = spectra
    .flatMap(({cells}) => cells.flat())
    .filter((value) => value > 0)
    .sort((a, b) => a - b);
  const high = values.at(-1) ?? 1;
  const low = Math.min(values[Math.floor(LEFT_OUT * values.length)] ?? 0.1, high / 10);
  const part = (value) =>
    value === null ? null : Math.log(Math.max(value, low) / low) / Math.log(high / low);
  document
    .getElementById('spectra')
    .replaceChildren(...spectra.map((spectrum) => figure(spectrum, part)));
  const steps = Array.from({length: 256}, (_, i) => i / 255);
  paint(document.getElementById('scale'), [steps]);
  document.getElementById('scale-low').textContent = `≤ ${low.toPrecision(2)}`;
  document.getElementById('scale-high').textContent = high.toPrecision(2);
  document.getElementById('not-stored').hidden = spectra.every(
    ({cells}) => !cells.flat().includes(null),
  );
}
