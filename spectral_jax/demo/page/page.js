// The page: what is asked for, what comes, and what the model is.

import {drawSpectra} from './heatmap.js';
import {makeTokenizer, UnknownCharacter} from './tokenizer.js';

const element = (id) => document.getElementById(id);
const about = await (await fetch('about.json')).json();
const tokenizer = makeTokenizer(about.tokenizer);
const worker = new Worker('worker.js', {type: 'module'});
let decode;
let begun = 0;
let count = 0;

const kilobytes = (bytes) => `${Math.round(bytes / 1000).toLocaleString('en')} kB`;

function describe({linear, layers, context, bytes, dense_bytes}) {
  const kernels = {
    dense: 'every weight stored',
    low_rank: `kernels of rank ${linear.rank}`,
    spectral: `${linear.selection} coefficients, ${100 * linear.keep} % of all`,
  };
  element('summary').textContent =
    `${layers} blocks, a context of ${context} tokens, ${kernels[linear.kind]}. ` +
    'Its text is computed in this page; nothing is sent anywhere.';
  const largest = Math.max(bytes, dense_bytes);
  const bar = (name, size, kind) => {
    const term = document.createElement('dt');
    const value = document.createElement('dd');
    const drawn = document.createElement('div');
    term.textContent = name;
    drawn.className = `bar ${kind}`;
    drawn.style.width = `${(100 * size) / largest}%`;
    value.append(drawn, kilobytes(size));
    return [term, value];
  };
  element('sizes').replaceChildren(
    ...bar('This file', bytes, ''),
    ...bar('A dense model', dense_bytes, 'dense'),
  );
  const part = ((100 * bytes) / dense_bytes).toFixed(1);
  element('size-note').textContent =
    `${part} % of the float32 weights of the same architecture with dense layers.` +
    (linear.kind === 'spectral' && linear.basis === 'dct'
      ? ' The kernels are rebuilt once, when the model is loaded.'
      : '');
}

function setRunning(running) {
  element('generate').disabled = running;
  element('stop').disabled = !running;
  element('text').setAttribute('aria-busy', running);
}

function showError(text) {
  element('error').textContent = text;
  element('error').hidden = !text;
}

function showProgress(end) {
  const seconds = (performance.now() - begun) / 1000;
  const speed = document.createElement('b');
  speed.textContent = (count / seconds).toFixed(0);
  element('speed').replaceChildren(speed, ' tokens/s on one core');
  element('status').textContent = `${count} tokens${end}`;
}

function addText(text, kind) {
  const output = element('text');
  const atEnd = output.scrollTop + output.clientHeight > output.scrollHeight - 40;
  if (kind) {
    const span = document.createElement('span');
    span.className = kind;
    span.textContent = text;
    output.append(span);
  } else {
    output.append(text);
  }
  if (atEnd) output.scrollTop = output.scrollHeight;
}

function generate(event) {
  event.preventDefault();
  showError('');
  const prompt = element('prompt').value || '\n';
  let ids;
  try {
    ids = tokenizer.encode(prompt);
  } catch (error) {
    if (!(error instanceof UnknownCharacter)) throw error;
    showError(error.message);
    return;
  }
  element('text').replaceChildren();
  addText(prompt, 'prompt');
  decode = tokenizer.decoder();
  begun = performance.now();
  count = 0;
  setRunning(true);
  worker.postMessage({
    ids,
    length: element('length').valueAsNumber,
    temperature: element('temperature').valueAsNumber,
  });
}

worker.onmessage = ({data}) => {
  if ('tokens' in data) {
    count += data.tokens.length;
    addText(data.tokens.map(decode).join(''));
    showProgress('');
  } else if (data.done) {
    addText(decode());
    showProgress(', done');
    setRunning(false);
    element('text').normalize();
  } else if ('ready' in data) {
    element('status').textContent = `Loaded in ${data.ready.toFixed(1)} s.`;
    setRunning(false);
  } else {
    showError(data.error);
    element('status').textContent = '';
    element('stop').disabled = true;
  }
};
worker.onerror = (event) => showError(event.message || 'The model cannot be run.');

element('form').addEventListener('submit', generate);
element('stop').addEventListener('click', () => worker.postMessage({stop: true}));
element('temperature').addEventListener('input', (event) => {
  element('temperature-value').textContent = event.target.value;
});

describe(about);
drawSpectra(about.spectra);
