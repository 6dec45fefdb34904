/**
 * Attention on the GPU where sequences are longer than the suite's: over several segments, by each of
 * the kernels that share the work, all of which must give the same bits.
 */

import { assertThrows } from "@std/assert";
import {
  type Backend,
  type Buffer,
  type KvType,
  PAGE_TOKENS,
  type Weight,
} from "../../src/backend/backend.ts";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { createWebGpuBackend } from "../../src/backend/webgpu/mod.ts";
import { UnsupportedOpError } from "../../src/errors.ts";
import { rowOf } from "./_expected.ts";
import { assertSameBits, filled, uploadVector, withBackend } from "./_harness.ts";
import { KV_TYPES } from "./_kept.ts";
import { generator, normals } from "./_random.ts";
import { ErrorTally, sumRounding, UNIT_ROUNDOFF } from "./_tolerance.ts";
import { GPU_SKIPPED } from "../support/gpu.ts";

/** Two sequences of so many tokens each. */
interface Shape {
  readonly name: string;
  readonly length: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  readonly window?: number;
  readonly sinks?: boolean;
  /** Of latents: keys are latents of `valueDim` numbers and rotary keys. */
  readonly isLatent?: boolean;
}

const SHAPES: readonly Shape[] = [
  { name: "groups of six", length: 600, heads: 12, kvHeads: 2, keyDim: 128, valueDim: 128 },
  {
    name: "groups of eight, a window of several segments, sinks",
    length: 1000,
    heads: 8,
    kvHeads: 1,
    keyDim: 64,
    valueDim: 64,
    window: 530,
    sinks: true,
  },
  { name: "a head each", length: 530, heads: 2, kvHeads: 2, keyDim: 96, valueDim: 80 },
  {
    name: "forty heads that share one, values wider than keys",
    length: 530,
    heads: 40,
    kvHeads: 1,
    keyDim: 40,
    valueDim: 44,
  },
  {
    name: "twenty heads over latents",
    length: 530,
    heads: 20,
    kvHeads: 1,
    keyDim: 64 + 16,
    valueDim: 64,
    isLatent: true,
  },
  {
    name: "DeepSeek-V2-Lite's sixteen heads over latents",
    length: 300,
    heads: 16,
    kvHeads: 1,
    keyDim: 512 + 64,
    valueDim: 512,
    isLatent: true,
  },
];

interface Token {
  readonly sequence: number;
  readonly position: number;
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
}

interface Inputs {
  readonly shape: Shape;
  /** By sequence, then position. */
  readonly sequences: readonly (readonly Token[])[];
  readonly sinks: Float32Array;
  readonly pageTables: Int32Array;
}

function inputsOf(shape: Shape, seed: number): Inputs {
  const random = generator(seed);
  const { length, heads, kvHeads, keyDim, valueDim, isLatent } = shape;
  const pages = Math.ceil(length / PAGE_TOKENS);
  return {
    shape,
    sequences: [0, 1].map((sequence) =>
      Array.from({ length }, (_, position) => ({
        sequence,
        position,
        q: normals(random, { length: heads * keyDim, scale: 1.5 }),
        k: normals(random, { length: kvHeads * keyDim }),
        v: normals(random, { length: isLatent ? 0 : kvHeads * valueDim }),
      }))
    ),
    sinks: normals(random, { length: heads, scale: 2 }),
    // Pages of the two in turn, from the last to the first.
    pageTables: Int32Array.from(
      { length: 2 * pages },
      (_, i) => 2 * pages - 1 - 2 * (i % pages) - Math.floor(i / pages),
    ),
  };
}

const scaleOf = ({ keyDim }: Shape) => keyDim ** -0.5;

/** A cache to which steps of tokens are fed; each gives the attention's output. */
async function runner(backend: Backend, inputs: Inputs, type: KvType) {
  const { shape, pageTables } = inputs;
  const { heads, kvHeads, keyDim, valueDim, window, isLatent } = shape;
  const pages = pageTables.length;
  const ropeDim = keyDim - valueDim;
  const sizes = { type, layers: 1, pages };
  const sinks = shape.sinks ? await uploadVector(backend, inputs.sinks) : undefined;
  const weight = isLatent
    ? await uploadVector(backend, new Float32Array(valueDim).fill(1))
    : undefined;
  const latents = isLatent
    ? backend.createLatentCache({ ...sizes, latentDim: valueDim, ropeDim })
    : null;
  const keys = isLatent ? null : backend.createKvCache({ ...sizes, kvHeads, keyDim, valueDim });
  const tables = filled(backend, pages / 2, pageTables);
  return async (tokens: readonly Token[]): Promise<Float32Array> => {
    const rows = tokens.length;
    const fill = (width: number, of: (token: Token) => Float32Array): Buffer => {
      const data = new Float32Array(rows * width);
      tokens.forEach((token, row) => data.set(of(token), row * width));
      return filled(backend, width, data);
    };
    const integers = (of: (token: Token) => number) =>
      filled(backend, 1, Int32Array.from(tokens, of));
    const batch = {
      positions: integers(({ position }) => position),
      sequences: integers(({ sequence }) => sequence),
      pageTables: tables,
    };
    // Rotation by nothing, so that keys are known to the bit.
    const rotaryDim = isLatent ? ropeDim : 8;
    const cosSin = fill(rotaryDim, () => new Float32Array(rotaryDim).fill(1, 0, rotaryDim / 2));
    const out = backend.createBuffer({ kind: "f32", rows, width: heads * valueDim });
    const shared = { heads, layer: 0, batch, rows };
    const scale = scaleOf(shape);
    const pairing = "halves" as const;
    const plan = latents === null
      ? () => {
        const q = fill(heads * keyDim, (token) => token.q);
        const k = fill(kvHeads * keyDim, (token) => token.k);
        const v = fill(kvHeads * valueDim, (token) => token.v);
        const op = { ...shared, q, cache: keys! };
        return backend.record((ops) => {
          ops.rotateAndCache({ ...op, k, v, cosSin, pairing });
          ops.attention({ ...op, scale, window, sinks, out });
        });
      }
      : () => {
        const kv = fill(keyDim, (token) => token.k);
        const latentQuery = fill(heads * valueDim, ({ q }) => part(q, { shape, isRope: false }));
        const q = fill(heads * ropeDim, (token) => part(token.q, { shape, isRope: true }));
        const latentNorm = { weight: weight as Weight, eps: 1e-6 };
        const op = { ...shared, q, nopeDim: 0, cache: latents };
        return backend.record((ops) => {
          ops.rotateAndCacheLatent({ ...op, kv, latentNorm, cosSin, pairing });
          ops.latentAttention({ ...op, latentQuery, scale, out });
        });
      };
    backend.submit(plan());
    return await backend.read(out);
  };
}

/** Of each head's query the first `valueDim` numbers, or the others. */
function part(
  q: Float32Array,
  { shape, isRope }: { shape: Shape; isRope: boolean },
): Float32Array {
  const { heads, keyDim, valueDim } = shape;
  const all: number[] = [];
  for (let head = 0; head < heads; head++) {
    const query = rowOf(q, head, keyDim);
    all.push(...(isRope ? query.subarray(valueDim) : query.subarray(0, valueDim)));
  }
  return Float32Array.from(all);
}

const largestOf = (all: readonly Float32Array[]) =>
  all.reduce((most, values) => values.reduce((m, v) => Math.max(m, Math.abs(v)), most), 0);

/** The bound of the conformance suite, of the largest query, key and value of all. */
function toleranceOf({ shape, sequences }: Inputs): number {
  const { keyDim, length } = shape;
  const tokens = sequences.flat();
  const largest = largestOf(tokens.map(({ k, v }) => v.length > 0 ? v : k));
  const lengths = (of: (token: Token) => Float32Array) =>
    Math.max(
      ...tokens.flatMap((token) =>
        Array.from(
          { length: of(token).length / keyDim },
          (_, head) => Math.hypot(...rowOf(of(token), head, keyDim)),
        )
      ),
    );
  const scores = lengths(({ q }) => q) * lengths(({ k }) => k) * scaleOf(shape);
  const relative = 4 * sumRounding(keyDim, scores) + 16 * UNIT_ROUNDOFF;
  return relative * largest + sumRounding(length, largest);
}

async function checkValues(backend: Backend, inputs: Inputs): Promise<void> {
  const [tokens] = inputs.sequences;
  const { heads, valueDim } = inputs.shape;
  const width = heads * valueDim;
  const reference = createReferenceBackend();
  const expected = await (await runner(reference, inputs, "f32"))(tokens);
  const tally = new ErrorTally(inputs.shape.name);
  const tolerance = { rounding: toleranceOf(inputs), deviation: 0 };
  const actual = await (await runner(backend, inputs, "f32"))(tokens);
  actual.forEach((value, i) =>
    tally.add(value, {
      expected: expected[i],
      tolerance,
      at: `position ${Math.floor(i / width)}, value ${i % width}`,
    })
  );
  tally.finish();
}

/** Rows of one sequence, rows that take turns with another's, and chunks must have the same bits. */
async function checkBits(backend: Backend, inputs: Inputs, type: KvType): Promise<void> {
  const [tokens, others] = inputs.sequences;
  const width = inputs.shape.heads * inputs.shape.valueDim;
  const whole = await (await runner(backend, inputs, type))(tokens);
  const mixed = await (await runner(backend, inputs, type))(
    tokens.flatMap((token, i) => [others[i], token]),
  );
  for (const { position } of tokens) {
    const expected = rowOf(whole, position, width);
    const what = `position ${position} beside another sequence's`;
    assertSameBits(rowOf(mixed, 2 * position + 1, width), expected, what);
  }
  for (const chunk of [20, 83]) {
    const run = await runner(backend, inputs, type);
    for (let start = 0; start < tokens.length; start += chunk) {
      const out = await run(tokens.slice(start, start + chunk));
      const expected = whole.slice(start * width, start * width + out.length);
      assertSameBits(out, expected, `position ${start} in chunks of ${chunk}`);
    }
  }
}

function recordWide(backend: Backend): void {
  const create = (kind: "f32" | "i32", width: number) =>
    backend.createBuffer({ kind, rows: 1, width });
  const size = { type: "f32", layers: 1, pages: 1, kvHeads: 1 } as const;
  const cache = backend.createKvCache({ ...size, keyDim: 8, valueDim: 520 });
  const batch = {
    positions: create("i32", 1),
    sequences: create("i32", 1),
    pageTables: create("i32", 1),
  };
  const op = { heads: 1, scale: 1, cache, layer: 0, batch, rows: 1 };
  backend.record((ops) => ops.attention({ ...op, q: create("f32", 8), out: create("f32", 520) }));
}

if (GPU_SKIPPED !== undefined) {
  Deno.test.ignore(`webgpu attention (skipped: ${GPU_SKIPPED})`, () => {});
} else {
  for (const [index, shape] of SHAPES.entries()) {
    Deno.test(`webgpu: attention over segments is right, ${shape.name}`, async () => {
      await withBackend(createWebGpuBackend, async (backend) => {
        await checkValues(backend, inputsOf(shape, 700 + index));
      });
    });

    Deno.test(`webgpu: each kernel of attention gives the same bits, ${shape.name}`, async () => {
      await withBackend(createWebGpuBackend, async (backend) => {
        const type = KV_TYPES[(index + 1) % KV_TYPES.length];
        await checkBits(backend, inputsOf(shape, 720 + index), type);
      });
    });
  }

  Deno.test("webgpu: attention over values wider than a workgroup's sums is refused", async () => {
    await withBackend(createWebGpuBackend, (backend) => {
      const message = "values are 520 numbers wide, must be at most 512";
      assertThrows(() => recordWide(backend), UnsupportedOpError, message);
      return Promise.resolve();
    });
  });
}
