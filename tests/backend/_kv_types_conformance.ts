/**
 * The part of the conformance suite about what caches of other types than f32 make of their numbers:
 * attention must be exact over the rounded ones.
 */

import { assert, assertEquals } from "@std/assert";
import type { Backend } from "../../src/backend/backend.ts";
import {
  attentionRunner,
  type Inputs,
  inputsOf,
  SHAPES,
  type Token,
} from "./_attention_conformance.ts";
import { attended, largestOf, magnitudeOf, normed, rowOf } from "./_expected.ts";
import { type Conformance, filled, sampled, withBackend } from "./_harness.ts";
import { kept, KV_TYPES, stepOf } from "./_kept.ts";
import * as latent from "./_latent_conformance.ts";
import { batchOf, isChecked, LENGTHS, mixedSteps, PAGES } from "./_sequences.ts";
import { ErrorTally, sumRounding, UNIT_ROUNDOFF } from "./_tolerance.ts";

const ROUNDED_TYPES = KV_TYPES.filter((type) => type !== "f32");

/** Attention of one query, tallied against float64 over the very numbers that are kept. */
function tally(
  errors: ErrorTally,
  options: {
    out: Float32Array;
    query: Float32Array;
    keys: Float64Array[];
    values: Float64Array[];
    scale: number;
    sink?: number;
    at: string;
  },
): void {
  const { out, query, keys, values, scale, sink, at } = options;
  const exact = Float64Array.from(query);
  // An error of the scores multiplies the weights by as much.
  const scores = Math.max(...keys.map((key) => magnitudeOf(exact, key))) * scale;
  const relative = 4 * sumRounding(exact.length, scores) + 16 * UNIT_ROUNDOFF;
  const largest = largestOf(values);
  const rounding = relative * largest + sumRounding(values.length, largest);
  attended(exact, { keys, values, scale, sink }).forEach((expected, i) =>
    errors.add(out[i], { expected, tolerance: { rounding, deviation: 0 }, at })
  );
}

export function kvTypeTests(suite: Conformance): void {
  const { name, open } = suite;
  for (const type of ROUNDED_TYPES) {
    // At least those of which `attentionTests` and `latentTests` compare bits.
    const isTried = (index: number) => index % KV_TYPES.length !== KV_TYPES.indexOf(type) - 1;
    Deno.test(`${name}: attention over a cache of ${type} is right over its rounded numbers`, async (t) => {
      await withBackend(open, async (backend) => {
        for (const [index, shape] of sampled(SHAPES, suite, isTried)) {
          await t.step(shape.name, async () => {
            const inputs = inputsOf(shape, 400 + index);
            const run = await attentionRunner(backend, inputs, type);
            const errors = new ErrorTally(`attention over ${type}`);
            const keys: Float32Array[][] = LENGTHS.map(() => []);
            const rounded = rounder();
            for (const step of mixedSteps(inputs.sequences, 30)) {
              const { q, k, out } = await run(step);
              for (const [row, { sequence, position }] of step.entries()) {
                keys[sequence][position] = rowOf(k, row, shape.kvHeads * shape.keyDim);
              }
              for (const [row, token] of step.entries()) {
                if (!isChecked(token)) continue;
                const query = rowOf(q, row, shape.heads * shape.keyDim);
                const rowOut = rowOf(out, row, shape.heads * shape.valueDim);
                tallyToken(errors, { inputs, type, token, query, keys, out: rowOut, rounded });
              }
            }
            errors.finish();
          });
        }
      });
    });

    Deno.test(`${name}: a token that sees itself alone reads its value as ${type} rounds it`, async () => {
      await withBackend(open, async (backend) => {
        const values = awkward();
        const [kvHeads, valueDim] = [2, values.length / 2];
        const shared = { type, layers: 1, pages: PAGES, kvHeads, keyDim: 8, valueDim };
        const cache = backend.createKvCache(shared);
        const token = [{ sequence: 1, position: 0 }];
        const q = filled(backend, kvHeads * 8, new Float32Array(kvHeads * 8).fill(1));
        const k = filled(backend, kvHeads * 8, new Float32Array(kvHeads * 8));
        const v = filled(backend, values.length, values);
        const cosSin = filled(backend, 8, new Float32Array(8));
        const out = backend.createBuffer({ kind: "f32", rows: 1, width: values.length });
        const op = { q, heads: 2, cache, layer: 0, batch: batchOf(backend, token), rows: 1 };
        backend.submit(backend.record((ops) => {
          ops.rotateAndCache({ ...op, k, v, cosSin, pairing: "halves" });
          ops.attention({ ...op, scale: 1, out });
        }));
        const read = await backend.read(out);
        const expected = [0, 1].flatMap((head) => [...kept(type, rowOf(values, head, valueDim))]);
        // By value: it is of no account which zero it is.
        read.forEach((value, i) => assert(value === expected[i], `${value} for ${expected[i]}`));
      });
    });

    Deno.test(`${name}: latent attention over a cache of ${type} is right over its rounded numbers`, async (t) => {
      await withBackend(open, async (backend) => {
        for (const [index, shape] of sampled(latent.SHAPES, suite, isTried)) {
          await t.step(latent.nameOf(shape), () => checkLatents(backend, { type, shape, index }));
        }
      });
    });
  }
}

/** Rounds a head of a row; remembers it, since every later token sees it again. */
function rounder() {
  const known = new WeakMap<Float32Array, Map<number, Float64Array>>();
  return (
    row: Float32Array,
    { type, kvHead, dim }: { type: (typeof ROUNDED_TYPES)[number]; kvHead: number; dim: number },
  ): Float64Array => {
    const heads = known.get(row) ?? new Map<number, Float64Array>();
    known.set(row, heads);
    const head = heads.get(kvHead) ?? Float64Array.from(kept(type, rowOf(row, kvHead, dim)));
    heads.set(kvHead, head);
    return head;
  };
}

function tallyToken(
  errors: ErrorTally,
  options: {
    inputs: Inputs;
    type: (typeof ROUNDED_TYPES)[number];
    token: Token;
    query: Float32Array;
    keys: Float32Array[][];
    out: Float32Array;
    rounded: ReturnType<typeof rounder>;
  },
): void {
  const { inputs, type, token, query, keys, out } = options;
  const { heads, kvHeads, keyDim, valueDim, window = Infinity, sinks } = inputs.shape;
  const { sequence, position } = token;
  const [first, end] = [Math.max(0, position + 1 - window), position + 1];
  for (let head = 0; head < heads; head++) {
    const kvHead = Math.floor(head * kvHeads / heads);
    const rounded = (row: Float32Array, dim: number) => options.rounded(row, { type, kvHead, dim });
    tally(errors, {
      out: rowOf(out, head, valueDim),
      query: rowOf(query, head, keyDim),
      keys: keys[sequence].slice(first, end).map((key) => rounded(key, keyDim)),
      values: inputs.sequences[sequence].slice(first, end).map(({ v }) => rounded(v, valueDim)),
      scale: keyDim ** -0.5,
      sink: sinks ? inputs.sinks[head] : undefined,
      at: `sequence ${sequence}, position ${position}, head ${head}`,
    });
  }
}

/** Two blocks of 32 and a short one for each of two heads: zeros, ties, subnormals, the largest. */
function awkward(): Float32Array {
  const halves = [
    0,
    -0,
    2 ** -24,
    -(2 ** -25),
    3 * 2 ** -25,
    2 ** -14 - 2 ** -25,
    1023.5 * 2 ** -24,
  ];
  const ties = [
    1 + 2 ** -11,
    1 + 3 * 2 ** -11,
    -2049,
    2051,
    65504,
    65519,
    65520,
    -1e6,
    3e38 / 2 ** 20,
  ];
  const cells = [127, 0.5, 1.5, -2.5, 126.5, -127, 1e-3, 1e-30, 2 ** -149];
  const all = [...halves, ...ties, ...cells];
  return Float32Array.from({ length: 144 }, (_, i) => {
    const value = all[i * 7 % all.length];
    // Each kind on its own too, so that no block's scale is another's.
    const block = Math.floor(i % 72 / 32);
    if (block === 0) return i < 72 ? cells[i % cells.length] : halves[i % halves.length];
    return block === 1 ? (i < 72 ? 0 : value) : ties[i % 6];
  });
}

async function checkLatents(
  backend: Backend,
  options: { type: (typeof ROUNDED_TYPES)[number]; shape: latent.Shape; index: number },
): Promise<void> {
  const { type, shape, index } = options;
  const { heads, nopeDim, latentDim, ropeDim } = shape;
  const drawn = latent.inputsOf(shape, 450 + index);
  // Rotation by nothing, so that the rotary key is known to the bit.
  const cosSin = Float32Array.from({ length: ropeDim }, (_, i) => i < ropeDim / 2 ? 1 : 0);
  const sequences = drawn.sequences.map((tokens) => tokens.map((token) => ({ ...token, cosSin })));
  const inputs = { ...drawn, sequences };
  // A token that sees itself alone gets its latent as it is kept.
  const alone = await latent.latentRunner(backend, inputs, type);
  let [numbers, flips] = [0, 0];
  const latents: Float32Array[][] = [];
  for (const tokens of sequences) {
    latents.push([]);
    const runs = await Promise.all(tokens.map((token) => alone([{ ...token, position: 0 }])));
    for (const [i, token] of tokens.entries()) {
      const read = runs[i].out.slice(0, latentDim);
      const exact = Float32Array.from(
        normed(token.kv.subarray(0, latentDim), { weight: inputs.norm, eps: latent.EPS }),
      );
      kept(type, exact).forEach((expected, i) => {
        // The kernel's norm may be a rounding off, and so across the middle between two steps.
        const slack = sumRounding(latentDim, Math.abs(expected));
        const error = Math.abs(read[i] - expected);
        assert(error <= 1.01 * stepOf(type, exact, i) + slack, `${read[i]} for ${expected}`);
        numbers++;
        if (error > slack) flips++;
      });
      latents.at(-1)!.push(read);
    }
  }
  assert(flips <= numbers / 100, `${flips} of ${numbers} numbers are a step off`);
  const run = await latent.latentRunner(backend, inputs, type);
  const errors = new ErrorTally(`latent attention over ${type}`);
  const scale = latent.scaleOf(shape);
  for (const step of mixedSteps(sequences, 30)) {
    const { q, out } = await run(step);
    for (const [row, token] of step.entries()) {
      if (!isChecked(token)) continue;
      const { sequence, position } = token;
      const values = latents[sequence].slice(0, position + 1).map((l) => Float64Array.from(l));
      const keys = values.map((value, p) =>
        Float64Array.of(...value, ...kept(type, sequences[sequence][p].kv.slice(latentDim)))
      );
      for (let head = 0; head < heads; head++) {
        const rotated = rowOf(rowOf(q, row, heads * (nopeDim + ropeDim)), head, nopeDim + ropeDim);
        const query = Float32Array.of(
          ...rowOf(token.latentQuery, head, latentDim),
          ...rotated.subarray(nopeDim),
        );
        const at = `sequence ${sequence}, position ${position}, head ${head}`;
        const ours = rowOf(rowOf(out, row, heads * latentDim), head, latentDim);
        tally(errors, { out: ours, query, keys, values, scale, at });
      }
    }
  }
  errors.finish();
  assertEquals(latents.length, LENGTHS.length);
}
