/** The part of the conformance suite about multi-head latent attention: rotation, cache, attention. */

import type { Backend, KvType } from "../../src/backend/backend.ts";
import { attended, largestOf, magnitudeOf, normed, rotated, rowOf } from "./_expected.ts";
import {
  assertSameBits,
  type Conformance,
  filled,
  sampled,
  uploadVector,
  withBackend,
} from "./_harness.ts";
import { KV_TYPES } from "./_kept.ts";
import { generator, normals } from "./_random.ts";
import {
  batchOf,
  chunksOf,
  cosSinOf,
  isChecked,
  joined,
  LENGTHS,
  mixedSteps,
  PAGES,
  type Place,
  remembered,
} from "./_sequences.ts";
import { ErrorTally, sumRounding, UNIT_ROUNDOFF } from "./_tolerance.ts";

export interface Shape {
  readonly heads: number;
  readonly nopeDim: number;
  readonly latentDim: number;
  readonly ropeDim: number;
  readonly pairing: "halves" | "interleaved";
}

export const SHAPES: readonly Shape[] = [
  { heads: 3, nopeDim: 12, latentDim: 32, ropeDim: 8, pairing: "interleaved" },
  { heads: 5, nopeDim: 20, latentDim: 96, ropeDim: 16, pairing: "halves" },
  { heads: 1, nopeDim: 32, latentDim: 64, ropeDim: 32, pairing: "interleaved" },
  // DeepSeek-V3's widths, of two of its heads.
  { heads: 2, nopeDim: 128, latentDim: 512, ropeDim: 64, pairing: "interleaved" },
];

export const nameOf = ({ heads, nopeDim, latentDim, ropeDim, pairing }: Shape) =>
  `${heads} heads of ${nopeDim} + ${ropeDim} over latents of ${latentDim}, ${pairing}`;

const LAYERS = 2;
const SIZE = { layers: LAYERS, pages: PAGES };
export const LAYER = 1;
export const EPS = 1e-6;

/** One token of a sequence with its inputs. */
export interface Token extends Place {
  readonly q: Float32Array;
  readonly kv: Float32Array;
  readonly latentQuery: Float32Array;
  readonly cosSin: Float32Array;
}

export interface Inputs {
  readonly shape: Shape;
  /** By sequence, then position. */
  readonly sequences: readonly (readonly Token[])[];
  readonly norm: Float32Array;
}

export function inputsOf(shape: Shape, seed: number): Inputs {
  const random = generator(seed);
  const { heads, nopeDim, latentDim, ropeDim } = shape;
  const token = (sequence: number, position: number): Token => ({
    sequence,
    position,
    q: normals(random, { length: heads * (nopeDim + ropeDim), scale: 1.5 }),
    kv: normals(random, { length: latentDim + ropeDim, scale: 2 }),
    latentQuery: normals(random, { length: heads * latentDim }),
    cosSin: cosSinOf(position, ropeDim),
  });
  return {
    shape,
    sequences: LENGTHS.map((length, sequence) =>
      Array.from({ length }, (_, position) => token(sequence, position))
    ),
    norm: normals(random, { length: latentDim }),
  };
}

export function scaleOf({ latentDim, ropeDim }: Shape): number {
  return (latentDim + ropeDim) ** -0.5;
}

/** A cache on a backend, f32 by default, to which steps of tokens are fed. */
export async function latentRunner(backend: Backend, inputs: Inputs, type: KvType = "f32") {
  const { shape, norm } = inputs;
  const { heads, nopeDim, latentDim, ropeDim, pairing } = shape;
  const cache = backend.createLatentCache({ ...SIZE, type, latentDim, ropeDim });
  const latentNorm = { weight: await uploadVector(backend, norm), eps: EPS };

  /**
   * Runs one step; gives the rotated queries and the attention's output. Steps come in the order of
   * calls, none of which has to wait for the one before.
   */
  return async (tokens: readonly Token[]) => {
    const rows = tokens.length;
    const q = filled(backend, heads * (nopeDim + ropeDim), joined(tokens.map(({ q }) => q)));
    const kv = filled(backend, latentDim + ropeDim, joined(tokens.map(({ kv }) => kv)));
    const queries = joined(tokens.map(({ latentQuery }) => latentQuery));
    const latentQuery = filled(backend, heads * latentDim, queries);
    const cosSin = filled(backend, ropeDim, joined(tokens.map(({ cosSin }) => cosSin)));
    const out = backend.createBuffer({ kind: "f32", rows, width: heads * latentDim });
    const batch = batchOf(backend, tokens);
    const shared = { q, heads, nopeDim, cache, layer: LAYER, batch, rows };
    backend.submit(backend.record((ops) => {
      ops.rotateAndCacheLatent({ ...shared, kv, latentNorm, cosSin, pairing });
      ops.latentAttention({ ...shared, latentQuery, scale: scaleOf(shape), out });
    }));
    const [rotatedQ, attended] = await Promise.all([backend.read(q), backend.read(out)]);
    return { q: rotatedQ, out: attended };
  };
}

/** A head's query, its last values rotated, in float64. */
function queryOf({ shape }: Inputs, { token, head }: { token: Token; head: number }): Float64Array {
  const { nopeDim, ropeDim, pairing } = shape;
  const query = Float64Array.from(rowOf(token.q, head, nopeDim + ropeDim));
  query.set(rotated(query.slice(nopeDim), { cosSin: token.cosSin, pairing }), nopeDim);
  return query;
}

/** What the cache must hold of a token: the normalised latent, the rotated key. */
function cachedOf({ shape, norm }: Inputs, { kv, cosSin }: Token): Float64Array {
  const { latentDim, pairing } = shape;
  return Float64Array.of(
    ...normed(kv.subarray(0, latentDim), { weight: norm, eps: EPS }),
    ...rotated(kv.subarray(latentDim), { cosSin, pairing }),
  );
}

function tallyQueries(
  tally: ErrorTally,
  options: { inputs: Inputs; token: Token; q: Float32Array },
): void {
  const { inputs, token, q } = options;
  const { heads, nopeDim, ropeDim } = inputs.shape;
  const width = nopeDim + ropeDim;
  for (let head = 0; head < heads; head++) {
    const largest = largestOf([rowOf(token.q, head, width).subarray(nopeDim)]);
    queryOf(inputs, { token, head }).forEach((expected, i) => {
      // Two products and their sum; the first values are not touched at all.
      const rounding = i < nopeDim ? 0 : 4 * UNIT_ROUNDOFF * largest;
      tally.add(q[head * width + i], {
        expected,
        tolerance: { rounding, deviation: 0 },
        at: `sequence ${token.sequence}, position ${token.position}, head ${head}, value ${i}`,
      });
    });
  }
}

/** What latent attention must give for a token, by head, and how far off it may be. */
type Attended = readonly { readonly values: Float64Array; readonly rounding: number }[];

/** Latent attention in float64 over the tokens of some inputs, each evaluated once. */
function attendedBy(inputs: Inputs): (token: Token) => Attended {
  const { heads, nopeDim, latentDim, ropeDim } = inputs.shape;
  const scale = scaleOf(inputs.shape);
  const cached = remembered((token: Token) => cachedOf(inputs, token));
  return remembered((token) => {
    const seen = inputs.sequences[token.sequence].slice(0, token.position + 1);
    const keys = seen.map(cached);
    const values = keys.map((key) => key.subarray(0, latentDim));
    const largest = largestOf(values);
    return Array.from({ length: heads }, (_, head) => {
      const query = Float64Array.of(
        ...rowOf(token.latentQuery, head, latentDim),
        ...queryOf(inputs, { token, head }).subarray(nopeDim),
      );
      // An error of the scores multiplies the weights by as much; inputs carry their own roundings.
      const scores = Math.max(...keys.map((key) => magnitudeOf(query, key))) * scale;
      const relative = 4 * sumRounding(latentDim + ropeDim, scores) + 16 * UNIT_ROUNDOFF;
      const rounding = relative * largest + sumRounding(latentDim + keys.length, largest);
      return { values: attended(query, { keys, values, scale }), rounding };
    });
  });
}

function tallyAttention(
  tally: ErrorTally,
  options: { expected: Attended; token: Token; out: Float32Array },
): void {
  const { expected, token, out } = options;
  for (const [head, { values, rounding }] of expected.entries()) {
    const at = `sequence ${token.sequence}, position ${token.position}, head ${head}`;
    values.forEach((value, i) =>
      tally.add(out[head * values.length + i], {
        expected: value,
        tolerance: { rounding, deviation: 0 },
        at,
      })
    );
  }
}

/** By the index of a shape. */
const expectedInputs = remembered((index: number) => {
  const inputs = inputsOf(SHAPES[index], 200 + index);
  return { inputs, attendedOf: attendedBy(inputs) };
});

export function latentTests(suite: Conformance): void {
  const { name, open, openTwin } = suite;
  Deno.test(`${name}: latent attention is right over paged, mixed sequences of every shape`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, shape] of SHAPES.entries()) {
        await t.step(nameOf(shape), async () => {
          const { inputs, attendedOf } = expectedInputs(index);
          const run = await latentRunner(backend, inputs);
          const queries = new ErrorTally("rotated queries");
          const attention = new ErrorTally("latent attention");
          const { heads, nopeDim, latentDim, ropeDim } = shape;
          for (const step of mixedSteps(inputs.sequences, 30)) {
            const { q, out } = await run(step);
            for (const [row, token] of step.entries()) {
              const rotatedRow = rowOf(q, row, heads * (nopeDim + ropeDim));
              tallyQueries(queries, { inputs, token, q: rotatedRow });
              if (!isChecked(token)) continue;
              const outRow = rowOf(out, row, heads * latentDim);
              tallyAttention(attention, { expected: attendedOf(token), token, out: outRow });
            }
          }
          queries.finish();
          attention.finish();
        });
      }
    });
  });

  Deno.test(`${name}: latent attention has the same bits alone, in a batch, and in chunks of any size`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, shape] of SHAPES.entries()) {
        for (const [, type] of sampled(KV_TYPES, suite, (i) => i === index % KV_TYPES.length)) {
          await t.step(`${nameOf(shape)}, ${type}`, async () => {
            const inputs = inputsOf(shape, 250 + index);
            const width = shape.heads * shape.latentDim;
            const tokens = inputs.sequences[2];
            // The whole sequence in one step is what the others are held against.
            const whole = (await (await latentRunner(backend, inputs, type))(tokens)).out;
            for (const chunk of [1, 7, 64]) {
              const run = await latentRunner(backend, inputs, type);
              const steps = chunksOf(tokens, chunk).map((step) => run(step));
              const out = joined((await Promise.all(steps)).map(({ out }) => out));
              assertSameBits(out, whole, `chunks of ${chunk}`);
            }
            const run = await latentRunner(backend, inputs, type);
            const mixed = mixedSteps(inputs.sequences, 33);
            const results = await Promise.all(mixed.map((step) => run(step)));
            for (const [i, { out }] of results.entries()) {
              for (const [row, { sequence, position }] of mixed[i].entries()) {
                if (sequence !== 2) continue;
                const expected = rowOf(whole, position, width);
                assertSameBits(rowOf(out, row, width), expected, `position ${position} in a batch`);
              }
            }
          });
        }
      }
    });
  });

  Deno.test(`${name}: layers of a latent cache hold tokens of their own`, async () => {
    await withBackend(open, async (backend) => {
      const inputs = inputsOf(SHAPES[0], 290);
      const { heads, nopeDim, latentDim, ropeDim, pairing } = SHAPES[0];
      const token = inputs.sequences[0][0];
      const cache = backend.createLatentCache({ ...SIZE, type: "f32", latentDim, ropeDim });
      const latentNorm = { weight: await uploadVector(backend, inputs.norm), eps: EPS };
      const q = filled(backend, heads * (nopeDim + ropeDim), token.q);
      const latentQuery = filled(backend, heads * latentDim, token.latentQuery);
      const cosSin = filled(backend, ropeDim, token.cosSin);
      const kvs = [token.kv, token.kv.map((value) => 1 - value)];
      const inputsKv = kvs.map((kv) => filled(backend, latentDim + ropeDim, kv));
      const width = heads * latentDim;
      const outs = kvs.map(() => backend.createBuffer({ kind: "f32", rows: 1, width }));
      const shared = { q, heads, nopeDim, cache, batch: batchOf(backend, [token]), rows: 1 };
      backend.submit(backend.record((ops) => {
        for (const [layer, kv] of inputsKv.entries()) {
          ops.rotateAndCacheLatent({ ...shared, layer, kv, latentNorm, cosSin, pairing });
        }
        for (const [layer, out] of outs.entries()) {
          ops.latentAttention({ ...shared, layer, latentQuery, scale: 1, out });
        }
      }));
      // A token that sees itself alone gets its own latent back, in every head.
      for (const [layer, kv] of kvs.entries()) {
        const out = await backend.read(outs[layer]);
        const tally = new ErrorTally(`layer ${layer}`);
        const latent = normed(kv.subarray(0, latentDim), { weight: inputs.norm, eps: EPS });
        out.forEach((actual, i) => {
          const expected = latent[i % latentDim];
          const rounding = sumRounding(latentDim, Math.abs(expected));
          tally.add(actual, { expected, tolerance: { rounding, deviation: 0 }, at: `value ${i}` });
        });
        tally.finish();
      }
    });
  });

  if (openTwin === undefined) return;
  Deno.test(`${name}: latent attention has the same bits on another number of threads`, async () => {
    await withBackend(open, async (one) => {
      await withBackend(openTwin, async (other) => {
        for (const [index, shape] of SHAPES.entries()) {
          const inputs = inputsOf(shape, 280 + index);
          const type = KV_TYPES[index % KV_TYPES.length];
          const runs = await Promise.all([one, other].map((b) => latentRunner(b, inputs, type)));
          for (const step of mixedSteps(inputs.sequences, 47)) {
            const [a, b] = [await runs[0](step), await runs[1](step)];
            assertSameBits(a.q, b.q, `queries, ${nameOf(shape)}`);
            assertSameBits(a.out, b.out, nameOf(shape));
          }
        }
      });
    });
  });
}
