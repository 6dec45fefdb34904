/** The part of the conformance suite about rotation, the KV cache and attention. */

import { type Backend, type KvType, PAGE_TOKENS } from "../../src/backend/backend.ts";
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

/** Shapes of attention: grouped heads or one each, odd widths, partial rotation, both pairings. */
export interface Shape {
  readonly name: string;
  readonly heads: number;
  readonly kvHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  readonly rotaryDim: number;
  readonly pairing: "halves" | "interleaved";
  readonly headNorms: boolean;
  /** How many of the last positions a token sees; all where absent. */
  readonly window?: number;
  readonly sinks?: boolean;
}

export const SHAPES: readonly Shape[] = [
  {
    name: "nine heads in three groups, halves",
    heads: 9,
    kvHeads: 3,
    keyDim: 64,
    valueDim: 64,
    rotaryDim: 64,
    pairing: "halves",
    headNorms: false,
  },
  {
    name: "four heads in two groups, neighbours",
    heads: 4,
    kvHeads: 2,
    keyDim: 16,
    valueDim: 16,
    rotaryDim: 16,
    pairing: "interleaved",
    headNorms: false,
  },
  {
    name: "head norms, halves",
    heads: 4,
    kvHeads: 2,
    keyDim: 32,
    valueDim: 32,
    rotaryDim: 32,
    pairing: "halves",
    headNorms: true,
  },
  {
    name: "head norms, neighbours, half of each head rotated, one group",
    heads: 5,
    kvHeads: 1,
    keyDim: 24,
    valueDim: 24,
    rotaryDim: 12,
    pairing: "interleaved",
    headNorms: true,
  },
  {
    name: "values narrower than keys, half of each head rotated",
    heads: 3,
    kvHeads: 3,
    keyDim: 20,
    valueDim: 12,
    rotaryDim: 10,
    pairing: "halves",
    headNorms: false,
  },
  {
    name: "a window within a page, and sinks",
    heads: 6,
    kvHeads: 2,
    keyDim: 16,
    valueDim: 16,
    rotaryDim: 16,
    pairing: "halves",
    headNorms: false,
    window: 5,
    sinks: true,
  },
  {
    name: "a window longer than a page, no sinks",
    heads: 4,
    kvHeads: 1,
    keyDim: 64,
    valueDim: 64,
    rotaryDim: 64,
    pairing: "halves",
    headNorms: false,
    window: PAGE_TOKENS + 6,
  },
  {
    name: "a window of one page",
    heads: 2,
    kvHeads: 2,
    keyDim: 20,
    valueDim: 12,
    rotaryDim: 20,
    pairing: "interleaved",
    headNorms: false,
    window: PAGE_TOKENS,
  },
  {
    name: "a window of one token, and sinks",
    heads: 3,
    kvHeads: 3,
    keyDim: 8,
    valueDim: 8,
    rotaryDim: 8,
    pairing: "halves",
    headNorms: false,
    window: 1,
    sinks: true,
  },
  {
    name: "sinks over all positions",
    heads: 8,
    kvHeads: 2,
    keyDim: 32,
    valueDim: 32,
    rotaryDim: 32,
    pairing: "halves",
    headNorms: false,
    sinks: true,
  },
];

export const LAYERS = 2;
export const LAYER = 1;
const EPS = 1e-6;

/** One token of a sequence with its inputs. */
export interface Token extends Place {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly cosSin: Float32Array;
}

export interface Inputs {
  readonly shape: Shape;
  /** By sequence, then position. */
  readonly sequences: readonly (readonly Token[])[];
  readonly qNorm: Float32Array;
  readonly kNorm: Float32Array;
  /** [heads] */
  readonly sinks: Float32Array;
}

export function inputsOf(shape: Shape, seed: number): Inputs {
  const random = generator(seed);
  const { heads, kvHeads, keyDim, valueDim, rotaryDim } = shape;
  const token = (sequence: number, position: number): Token => ({
    sequence,
    position,
    q: normals(random, { length: heads * keyDim, scale: 1.5 }),
    k: normals(random, { length: kvHeads * keyDim }),
    v: normals(random, { length: kvHeads * valueDim }),
    cosSin: cosSinOf(position, rotaryDim),
  });
  return {
    shape,
    sequences: LENGTHS.map((length, sequence) =>
      Array.from({ length }, (_, position) => token(sequence, position))
    ),
    qNorm: normals(random, { length: keyDim }),
    kNorm: normals(random, { length: keyDim }),
    sinks: normals(random, { length: heads, scale: 2 }),
  };
}

/** A cache on a backend, f32 by default, to which steps of tokens are fed. */
export async function attentionRunner(backend: Backend, inputs: Inputs, type: KvType = "f32") {
  const { shape, qNorm, kNorm } = inputs;
  const { heads, kvHeads, keyDim, valueDim, rotaryDim, pairing, headNorms, window } = shape;
  const size = { type, layers: LAYERS, pages: PAGES };
  const cache = backend.createKvCache({ ...size, kvHeads, keyDim, valueDim });
  const norms = headNorms
    ? {
      qNorm: { weight: await uploadVector(backend, qNorm), eps: EPS },
      kNorm: { weight: await uploadVector(backend, kNorm), eps: EPS },
    }
    : {};
  const sinks = shape.sinks ? await uploadVector(backend, inputs.sinks) : undefined;

  /**
   * Runs one step; gives the rotated queries and keys, and the attention's output. Steps come in the order
   * of calls, none of which has to wait for the one before.
   */
  return async (tokens: readonly Token[]) => {
    const rows = tokens.length;
    const q = filled(backend, heads * keyDim, joined(tokens.map((token) => token.q)));
    const k = filled(backend, kvHeads * keyDim, joined(tokens.map((token) => token.k)));
    const v = filled(backend, kvHeads * valueDim, joined(tokens.map((token) => token.v)));
    const cosSin = filled(backend, rotaryDim, joined(tokens.map((token) => token.cosSin)));
    const batch = batchOf(backend, tokens);
    const out = backend.createBuffer({ kind: "f32", rows, width: heads * valueDim });
    const scale = keyDim ** -0.5;
    const shared = { q, heads, cache, layer: LAYER, batch, rows };
    backend.submit(backend.record((ops) => {
      ops.rotateAndCache({ ...shared, ...norms, k, v, cosSin, pairing });
      ops.attention({ ...shared, scale, window, sinks, out });
    }));
    const [rotatedQ, rotatedK, attended] = await Promise.all(
      [q, k, out].map((b) => backend.read(b)),
    );
    return { q: rotatedQ, k: rotatedK, out: attended };
  };
}

/** A head of a token's queries or keys as the op must leave it, in float64. */
function headOf(
  values: Float32Array,
  options: { inputs: Inputs; head: number; norm: Float32Array; cosSin: Float32Array },
): Float64Array {
  const { inputs, head, norm, cosSin } = options;
  const { keyDim, pairing, headNorms } = inputs.shape;
  const raw = rowOf(values, head, keyDim);
  const ready = headNorms ? normed(raw, { weight: norm, eps: EPS }) : raw;
  return rotated(ready, { cosSin, pairing });
}

function tallyRotation(
  tally: ErrorTally,
  options: { inputs: Inputs; token: Token; q: Float32Array; k: Float32Array },
): void {
  const { inputs, token } = options;
  const { heads, kvHeads, keyDim } = inputs.shape;
  const { cosSin } = token;
  const check = (what: "q" | "k", { count, norm }: { count: number; norm: Float32Array }) => {
    for (let head = 0; head < count; head++) {
      const expected = headOf(token[what], { inputs, head, norm, cosSin });
      const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const tolerance = { rounding: sumRounding(keyDim, largest), deviation: 0 };
      expected.forEach((value, i) =>
        tally.add(options[what][head * keyDim + i], {
          expected: value,
          tolerance,
          at: `${what}, sequence ${token.sequence}, position ${token.position}, head ${head}`,
        })
      );
    }
  };
  check("q", { count: heads, norm: inputs.qNorm });
  check("k", { count: kvHeads, norm: inputs.kNorm });
}

/** What attention must give for a token. */
interface Attended {
  /** By head, then value. */
  readonly heads: readonly Float64Array[];
  /** By head. */
  readonly rounding: readonly number[];
}

/** Attention in float64 over the tokens of some inputs, each evaluated once. */
function attendedBy(inputs: Inputs): (token: Token) => Attended {
  const { heads, kvHeads, keyDim, valueDim, window = Infinity } = inputs.shape;
  const { qNorm, kNorm } = inputs;
  const scale = keyDim ** -0.5;
  const cached = remembered(({ k, v, cosSin }: Token) =>
    Array.from({ length: kvHeads }, (_, head) => ({
      key: headOf(k, { inputs, head, norm: kNorm, cosSin }),
      value: Float64Array.from(rowOf(v, head, valueDim)),
    }))
  );
  return remembered((token) => {
    const end = token.position + 1;
    const seen = inputs.sequences[token.sequence].slice(Math.max(0, end - window), end);
    const all = Array.from({ length: heads }, (_, head) => {
      const kvHead = Math.floor(head * kvHeads / heads);
      const query = headOf(token.q, { inputs, head, norm: qNorm, cosSin: token.cosSin });
      const keys = seen.map((token) => cached(token)[kvHead].key);
      const values = seen.map((token) => cached(token)[kvHead].value);
      // An error of the scores multiplies the weights by as much; inputs carry their own roundings.
      const scores = Math.max(...keys.map((key) => magnitudeOf(query, key))) * scale;
      const sink = inputs.shape.sinks ? inputs.sinks[head] : undefined;
      const relative = 4 * sumRounding(keyDim, scores) + 16 * UNIT_ROUNDOFF;
      const largest = largestOf(values);
      const rounding = relative * largest + sumRounding(seen.length, largest);
      return { values: attended(query, { keys, values, scale, sink }), rounding };
    });
    return { heads: all.map(({ values }) => values), rounding: all.map((head) => head.rounding) };
  });
}

function tallyAttention(
  tally: ErrorTally,
  options: { expected: Attended; token: Token; out: Float32Array },
): void {
  const { expected, token, out } = options;
  for (const [head, values] of expected.heads.entries()) {
    const tolerance = { rounding: expected.rounding[head], deviation: 0 };
    const at = `sequence ${token.sequence}, position ${token.position}, head ${head}`;
    values.forEach((value, i) =>
      tally.add(out[head * values.length + i], { expected: value, tolerance, at })
    );
  }
}

/** By the index of a shape. */
const expectedInputs = remembered((index: number) => {
  const inputs = inputsOf(SHAPES[index], index);
  return { inputs, attendedOf: attendedBy(inputs) };
});

export function attentionTests(suite: Conformance): void {
  const { name, open, openTwin } = suite;
  Deno.test(`${name}: attention is right over paged, mixed sequences of every head shape`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, shape] of SHAPES.entries()) {
        await t.step(shape.name, async () => {
          const { inputs, attendedOf } = expectedInputs(index);
          const run = await attentionRunner(backend, inputs);
          const rotation = new ErrorTally("rotation");
          const attention = new ErrorTally("attention");
          for (const step of mixedSteps(inputs.sequences, 30)) {
            const { q, k, out } = await run(step);
            for (const [row, token] of step.entries()) {
              tallyRotation(rotation, {
                inputs,
                token,
                q: rowOf(q, row, shape.heads * shape.keyDim),
                k: rowOf(k, row, shape.kvHeads * shape.keyDim),
              });
              if (!isChecked(token)) continue;
              tallyAttention(attention, {
                expected: attendedOf(token),
                token,
                out: rowOf(out, row, shape.heads * shape.valueDim),
              });
            }
          }
          rotation.finish();
          attention.finish();
        });
      }
    });
  });

  Deno.test(`${name}: attention has the same bits alone, in a batch, and in chunks of any size`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, shape] of SHAPES.entries()) {
        for (const [, type] of sampled(KV_TYPES, suite, (i) => i === index % KV_TYPES.length)) {
          await t.step(`${shape.name}, ${type}`, async () => {
            const inputs = inputsOf(shape, 50 + index);
            const width = shape.heads * shape.valueDim;
            const tokens = inputs.sequences[2];
            // The whole sequence in one step is what the others are held against.
            const whole = (await (await attentionRunner(backend, inputs, type))(tokens)).out;
            for (const chunk of [1, 7, 64]) {
              const run = await attentionRunner(backend, inputs, type);
              const steps = chunksOf(tokens, chunk).map((step) => run(step));
              const out = joined((await Promise.all(steps)).map(({ out }) => out));
              assertSameBits(out, whole, `chunks of ${chunk}`);
            }
            const run = await attentionRunner(backend, inputs, type);
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

  if (openTwin === undefined) return;
  Deno.test(`${name}: attention has the same bits on another number of threads`, async () => {
    await withBackend(open, async (one) => {
      await withBackend(openTwin, async (other) => {
        for (const [index, shape] of SHAPES.entries()) {
          const inputs = inputsOf(shape, 80 + index);
          const type = KV_TYPES[index % KV_TYPES.length];
          const runs = await Promise.all([one, other].map((b) => attentionRunner(b, inputs, type)));
          for (const step of mixedSteps(inputs.sequences, 47)) {
            const [a, b] = [await runs[0](step), await runs[1](step)];
            assertSameBits(a.q, b.q, `queries, ${shape.name}`);
            assertSameBits(a.k, b.k, `keys, ${shape.name}`);
            assertSameBits(a.out, b.out, shape.name);
          }
        }
      });
    });
  });
}
