// Runs the model, beside the page, which therefore never waits.
//
// Takes {ids, length, temperature}, or {stop: true}. Posts {ready: seconds},
// {tokens: ids} as they are drawn, {done: true} at the end, and {error: text}.

import * as ort from './runtime/ort.wasm.min.mjs';

// How often the page hears of tokens, and is heard: it draws what it is told, and
// would do nothing else if it were told of each.
const TURN_MS = 30;

let about, session;
let stopped = false;

async function load() {
  const start = performance.now();
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = new URL('./runtime/', self.location).href;
  const answer = await fetch('about.json');
  about = await answer.json();
  session = await ort.InferenceSession.create('model.onnx');
  postMessage({ready: (performance.now() - start) / 1000});
}

// The keys and values of no token at all.
function emptyPast() {
  const shape = [1, about.heads, 0, about.features];
  const names = session.inputNames.filter((name) => name !== 'input_ids');
  return Object.fromEntries(
    names.map((name) => [name, new ort.Tensor('float32', new Float32Array(0), shape)]),
  );
}

// The logits after the new tokens, and the past of the next call.
async function advance(ids, past) {
  const new_ids = new ort.Tensor('int64', BigInt64Array.from(ids, BigInt), [1, ids.length]);
  const outputs = await session.run({input_ids: new_ids, ...past});
  const [, tokens, vocabulary] = outputs.logits.dims;
  const logits = outputs.logits.data.subarray((tokens - 1) * vocabulary);
  const present = Object.fromEntries(
    Object.keys(past).map((name) => [
      name,
      outputs[name.replace('past_key_values', 'present')],
    ]),
  );
  return {logits, present};
}

function draw(logits, temperature) {
  let best = 0;
  logits.forEach((logit, id) => {
    if (logit > logits[best]) best = id;
  });
  if (temperature === 0) return best;
  const weights = Array.from(logits, (logit) =>
    Math.exp((logit - logits[best]) / temperature),
  );
  let rest = Math.random() * weights.reduce((sum, weight) => sum + weight, 0);
  const drawn = weights.findIndex((weight) => (rest -= weight) < 0);
  return drawn < 0 ? best : drawn;
}

async function generate({ids, length, temperature}) {
  stopped = false;
  let window = ids.slice(-about.context);
  let past = null;
  let drawn = [];
  let turn = performance.now();
  for (let count = 0; count < length && !stopped; count++) {
    const step = past
      ? await advance(window.slice(-1), past)
      : await advance(window, emptyPast());
    past = step.present;
    const token = draw(step.logits, temperature);
    drawn.push(token);
    window.push(token);
    if (window.length > about.context) {
      // Positions are learned: the rest is encoded anew.
      window = window.slice(about.slide);
      past = null;
    }
    if (performance.now() - turn > TURN_MS) {
      postMessage({tokens: drawn});
      drawn = [];
      await new Promise((resolve) => setTimeout(resolve));
      turn = performance.now();
    }
  }
  postMessage({tokens: drawn});
  postMessage({done: true});
}

function report(error) {
  postMessage({error: String(error?.message ?? error)});
}

onmessage = ({data}) => {
  if (data.stop) stopped = true;
  else generate(data).catch(report);
};

load().catch(report);
