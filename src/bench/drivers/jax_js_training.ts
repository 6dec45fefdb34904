/**
 * Trains the dense model of `../training_peers.ts` with jax-js on its WebAssembly device, in Deno.
 * Arguments: the package's specifier, then the model as JSON (`PeerModel`).
 *
 * The forward pass, the gradient, the clipping and AdamW are one function under `jit`. Rows of the
 * embedding table are taken by `take`, and log-probabilities of targets by a product with one-hot rows.
 * Every use of an array but the last one takes a `.ref`, since functions of jax-js use arrays up. Threads are what the library finds in `navigator.hardwareConcurrency`.
 */

import { matricesOf, type PeerModel, type PeerTokens, RULE } from "../training_model.ts";
import { serveTraining } from "./_training.ts";

/** An array of jax-js, without its type: the package is known at run time only, so that no lock names it. */
// deno-lint-ignore no-explicit-any
type JaxArray = any;
type Tree = Record<string, JaxArray>;

const [specifier, json] = Deno.args;
const model: PeerModel = JSON.parse(json);
Object.defineProperty(navigator, "hardwareConcurrency", { value: model.threads });
const jax = await import(specifier);
const { numpy: np, nn } = jax;

const { width, layers, heads, vocabulary, samples, length } = model;
const size = width / heads;
const rows = samples * length;

/** [rows, in] times [in, out], as gradients take it. */
const linear = (x: JaxArray, weight: JaxArray): JaxArray => np.matmul(x, weight);

function rmsNorm(x: JaxArray, weight: JaxArray): JaxArray {
  const mean = np.mean(np.square(x.ref), -1, { keepdims: true });
  return x.div(np.sqrt(mean.add(1e-6))).mul(weight);
}

/** Rotates halves of heads: x [samples, length, heads, size], cos and sin [1, length, 1, size / 2]. */
function rotate(x: JaxArray, [cos, sin]: readonly [JaxArray, JaxArray]): JaxArray {
  const [a, b] = np.split(x, 2, -1);
  const first = a.ref.mul(cos.ref).sub(b.ref.mul(sin.ref));
  return np.concatenate([first, b.mul(cos).add(a.mul(sin))], -1);
}

function angles(): [JaxArray, JaxArray] {
  const half = size / 2;
  const of = (wave: (angle: number) => number) =>
    np.array(
      Float32Array.from(
        { length: length * half },
        (_, i) => wave(Math.floor(i / half) * 10000 ** (-(i % half) / half)),
      ),
    ).reshape([1, length, 1, half]);
  return [of(Math.cos), of(Math.sin)];
}

/** The mean cross-entropy over all rows; ids i32 [rows], targets one-hot f32 [rows, vocabulary]. */
function lossOf(
  weights: Tree,
  ids: JaxArray,
  targets: JaxArray,
  cos: JaxArray,
  sin: JaxArray,
): JaxArray {
  const heads4 = (x: JaxArray) => x.reshape([samples, length, heads, size]);
  let x = np.take(weights.embedding, ids, 0);
  for (let i = 0; i < layers; i++) {
    const at = (name: string) => weights[`${i}.${name}`];
    const a = rmsNorm(x.ref, at("attentionNorm"));
    const query = rotate(heads4(linear(a.ref, at("query"))), [cos.ref, sin.ref]);
    const key = rotate(heads4(linear(a.ref, at("key"))), [cos.ref, sin.ref]);
    const value = heads4(linear(a, at("value")));
    const mixed = nn.dotProductAttention(query, key, value, { isCausal: true });
    x = x.add(linear(mixed.reshape([rows, width]), at("output")));
    const m = rmsNorm(x.ref, at("feedForwardNorm"));
    const gated = nn.silu(linear(m.ref, at("gate"))).mul(linear(m, at("up")));
    x = x.add(linear(gated, at("down")));
  }
  cos.dispose();
  sin.dispose();
  const logits = linear(rmsNorm(x, weights.finalNorm), weights.head);
  return nn.logSoftmax(logits, -1).mul(targets).sum().mul(-1 / rows);
}

/** AdamW behind clipping by the norm of all gradients; `corrections` are 1 - beta^t, f32 scalars. */
function update(
  { weights, first, second }: Record<string, Tree>,
  gradients: Tree,
  corrections: readonly [JaxArray, JaxArray],
): Record<string, Tree> {
  const { beta1, beta2, eps, rate, decay, maxNorm } = RULE;
  const names = Object.keys(gradients);
  const squares = names.map((name) => np.square(gradients[name].ref).sum());
  const norm = np.sqrt(squares.reduce((sum, square) => sum.add(square)));
  const factor = np.minimum(np.array(maxNorm).div(norm.add(1e-6)), 1);
  const next: Record<string, Tree> = { weights: {}, first: {}, second: {} };
  for (const name of names) {
    const gradient = gradients[name].mul(factor.ref);
    const m = first[name].mul(beta1).add(gradient.ref.mul(1 - beta1));
    const v = second[name].mul(beta2).add(np.square(gradient).mul(1 - beta2));
    const root = np.sqrt(v.ref.div(corrections[1].ref)).add(eps);
    const move = m.ref.div(corrections[0].ref).div(root).mul(rate);
    const kept = 1 - (weights[name].ndim > 1 ? rate * decay : 0);
    next.weights[name] = weights[name].mul(kept).sub(move);
    next.first[name] = m;
    next.second[name] = v;
  }
  for (const scalar of [factor, ...corrections]) scalar.dispose();
  return next;
}

const step = jax.jit(
  (state: Record<string, Tree>, data: Tree, corrections: [JaxArray, JaxArray]) => {
    const { ids, targets, cos, sin } = data;
    const own = Object.fromEntries(Object.entries(state.weights).map(([k, w]) => [k, w.ref]));
    const [loss, gradients] = jax.valueAndGrad(lossOf)(own, ids, targets, cos, sin);
    return [loss, update(state, gradients, corrections)];
  },
);

function initialState(): Record<string, Tree> {
  const state: Record<string, Tree> = { weights: {}, first: {}, second: {} };
  let key = jax.random.key(1);
  for (const [name, shape] of Object.entries(matricesOf(model))) {
    const [next, own] = jax.random.split(key);
    key = next;
    state.weights[name] = shape.length === 1
      ? (own.dispose(), np.ones(shape))
      : jax.random.normal(own, shape).mul(0.02);
    state.first[name] = np.zeros(shape);
    state.second[name] = np.zeros(shape);
  }
  return state;
}

await serveTraining(async () => {
  await jax.init("wasm");
  jax.defaultDevice("wasm");
  let state = initialState();
  await jax.blockUntilReady(state);
  const [cos, sin] = angles();
  let count = 0;
  return {
    version: specifier,
    parameters: Object.values(state.weights).reduce((sum, { size }) => sum + size, 0),
    open: (tokens: PeerTokens) => {
      const ids = np.array(Int32Array.from(tokens.inputs.flat()), { dtype: np.int32 });
      const targets = nn.oneHot(
        np.array(Int32Array.from(tokens.targets.flat()), { dtype: np.int32 }),
        vocabulary,
      );
      return async () => {
        count++;
        const { beta1, beta2 } = RULE;
        const corrections = [np.array(1 - beta1 ** count), np.array(1 - beta2 ** count)];
        const data = { ids: ids.ref, targets: targets.ref, cos: cos.ref, sin: sin.ref };
        const [loss, next] = step(state, data, corrections);
        await jax.blockUntilReady(next);
        state = next;
        return (await loss.data())[0];
      };
    },
  };
});
