/** The part of the conformance suite about pages of a cache: read, written, copied, by parts. */

import { assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import {
  type Backend,
  type KvType,
  type ModelCache,
  PAGE_TOKENS,
} from "../../src/backend/backend.ts";
import { assertSameBits, type Conformance, filled, uploadVector, withBackend } from "./_harness.ts";
import { KV_TYPES } from "./_kept.ts";
import { generator, normals } from "./_random.ts";

const LAYERS = 3;
const PAGES = 4;
const LENGTH = PAGE_TOKENS + 39;

/** A cache of some kind with the tokens of one sequence, and attention over it. */
interface Filled {
  readonly cache: ModelCache;
  /** Writes tokens `from..to` of the sequence, whose pages are these. */
  fill(range: { from: number; to: number; pages: readonly number[] }): void;
  /** What the token at a position gets in each layer. */
  attend(position: number, pages: readonly number[]): Promise<Float32Array>;
}

type Maker = (backend: Backend, options: { type: KvType; seed: number }) => Promise<Filled>;

/** Where rows of one sequence belong. */
function batchOf(backend: Backend, options: { positions: number[]; pages: readonly number[] }) {
  const { positions, pages } = options;
  return {
    positions: filled(backend, 1, Int32Array.from(positions)),
    sequences: filled(backend, 1, new Int32Array(positions.length)),
    pageTables: filled(backend, pages.length, Int32Array.from(pages)),
  };
}

function positionsOf(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, i) => from + i);
}

/** Two heads whose keys and values are of widths that fill no vector. */
// deno-lint-ignore require-await -- as the other maker
const keysAndValues: Maker = async (backend, { type, seed }) => {
  const [kvHeads, keyDim, valueDim] = [2, 20, 36];
  const cache = backend.createKvCache({
    type,
    layers: LAYERS,
    pages: PAGES,
    kvHeads,
    keyDim,
    valueDim,
  });
  const random = generator(seed);
  const draw = (width: number) => normals(random, { length: LENGTH * width });
  const tokens = Array.from({ length: LAYERS }, () => ({
    k: draw(kvHeads * keyDim),
    v: draw(kvHeads * valueDim),
  }));
  const query = normals(random, { length: kvHeads * keyDim });
  const part = (values: Float32Array, { from, to }: { from: number; to: number }) => {
    const width = values.length / LENGTH;
    return filled(backend, width, values.slice(from * width, to * width));
  };
  return {
    cache,
    fill({ from, to, pages }) {
      const rows = to - from;
      const batch = batchOf(backend, { positions: positionsOf(from, to), pages });
      const q = filled(backend, kvHeads * keyDim, new Float32Array(rows * kvHeads * keyDim));
      const cosSin = filled(backend, 4, new Float32Array(rows * 4).fill(0.6));
      const buffers = tokens.map(({ k, v }) => ({
        k: part(k, { from, to }),
        v: part(v, { from, to }),
      }));
      backend.submit(backend.record((ops) => {
        for (const [layer, { k, v }] of buffers.entries()) {
          const shared = { q, k, v, heads: kvHeads, cosSin, cache, layer, batch, rows };
          ops.rotateAndCache({ ...shared, pairing: "halves" });
        }
      }));
    },
    async attend(position, pages) {
      const batch = batchOf(backend, { positions: [position], pages });
      const q = filled(backend, query.length, query);
      const width = kvHeads * valueDim;
      const outs = tokens.map(() => backend.createBuffer({ kind: "f32", rows: 1, width }));
      backend.submit(backend.record((ops) => {
        for (const [layer, out] of outs.entries()) {
          ops.attention({ q, heads: kvHeads, scale: 0.3, cache, layer, batch, out, rows: 1 });
        }
      }));
      return await together(backend, outs);
    },
  };
};

const latents: Maker = async (backend, { type, seed }) => {
  const [heads, nopeDim, latentDim, ropeDim] = [2, 8, 44, 8];
  const cache = backend.createLatentCache({
    type,
    layers: LAYERS,
    pages: PAGES,
    latentDim,
    ropeDim,
  });
  const width = latentDim + ropeDim;
  const random = generator(seed);
  const tokens = Array.from(
    { length: LAYERS },
    () => normals(random, { length: LENGTH * width }),
  );
  const query = normals(random, { length: heads * latentDim });
  const rotary = normals(random, { length: heads * (nopeDim + ropeDim) });
  const norm = await uploadVector(backend, normals(random, { length: latentDim }));
  const shared = { heads, nopeDim, cache };
  return {
    cache,
    fill({ from, to, pages }) {
      const rows = to - from;
      const batch = batchOf(backend, { positions: positionsOf(from, to), pages });
      const q = filled(backend, rotary.length, new Float32Array(rows * rotary.length));
      const cosSin = filled(backend, ropeDim, new Float32Array(rows * ropeDim).fill(0.6));
      const kvs = tokens.map((kv) => filled(backend, width, kv.slice(from * width, to * width)));
      const op = { ...shared, q, cosSin, latentNorm: { weight: norm, eps: 1e-6 }, batch, rows };
      backend.submit(backend.record((ops) => {
        for (const [layer, kv] of kvs.entries()) {
          ops.rotateAndCacheLatent({ ...op, kv, layer, pairing: "interleaved" });
        }
      }));
    },
    async attend(position, pages) {
      const batch = batchOf(backend, { positions: [position], pages });
      const q = filled(backend, rotary.length, rotary);
      const latentQuery = filled(backend, query.length, query);
      const buffer = { kind: "f32", rows: 1, width: heads * latentDim } as const;
      const outs = tokens.map(() => backend.createBuffer(buffer));
      backend.submit(backend.record((ops) => {
        for (const [layer, out] of outs.entries()) {
          const op = { ...shared, q, latentQuery, scale: 0.3, layer, batch, out, rows: 1 };
          ops.latentAttention(op);
        }
      }));
      return await together(backend, outs);
    },
  };
};

async function together(
  backend: Backend,
  outs: readonly Parameters<Backend["read"]>[0][],
): Promise<Float32Array> {
  const all: number[] = [];
  for (const out of outs) all.push(...await backend.read(out));
  return Float32Array.from(all);
}

const KINDS = [["keys and values", keysAndValues], ["latents", latents]] as const;

export function pageTests({ name, open }: Conformance): void {
  for (const [kind, make] of KINDS) {
    for (const type of KV_TYPES) {
      const what = `${name}: pages of ${kind} in ${type}`;

      Deno.test(`${what} come back to the bit, into other pages of another cache`, async () => {
        await withBackend(open, async (backend) => {
          const from = await make(backend, { type, seed: 500 });
          from.fill({ from: 0, to: LENGTH, pages: [2, 0] });
          const to = await make(backend, { type, seed: 501 });
          to.fill({ from: 0, to: LENGTH, pages: [0, 1] });
          for (
            const [page, target, tokens] of [[2, 1, PAGE_TOKENS], [0, 3, LENGTH - PAGE_TOKENS]]
          ) {
            const bytes = await backend.readPage({ cache: from.cache, page, tokens });
            assertEquals(bytes.length, backend.pageBytes(from.cache, tokens));
            backend.writePage({ cache: to.cache, page: target, tokens }, bytes);
          }
          // The other cache's queries are its own, so they are asked of copies: the tokens are what moved.
          const again = await make(backend, { type, seed: 500 });
          for (const [page, target] of [[1, 0], [3, 2]]) {
            const tokens = page === 1 ? PAGE_TOKENS : LENGTH - PAGE_TOKENS;
            const bytes = await backend.readPage({ cache: to.cache, page, tokens });
            backend.writePage({ cache: again.cache, page: target, tokens }, bytes);
          }
          for (const position of [0, 1, 63, 64, LENGTH - 1]) {
            const whole = await from.attend(position, [2, 0]);
            assertSameBits(await again.attend(position, [0, 2]), whole, `position ${position}`);
          }
        });
      });

      Deno.test(`${what} are read in part, whatever lies behind the part`, async () => {
        await withBackend(open, async (backend) => {
          const full = await make(backend, { type, seed: 510 });
          full.fill({ from: 0, to: LENGTH, pages: [3, 1] });
          let last = 0;
          for (const tokens of [1, 2, 7, 8, 9, 31, 60, 63, PAGE_TOKENS]) {
            const bytes = await backend.readPage({ cache: full.cache, page: 3, tokens });
            assertEquals(bytes.length, backend.pageBytes(full.cache, tokens));
            assertEquals(bytes.length >= last, true, "more tokens take no fewer bytes");
            last = bytes.length;
            // A cache that never held more than these tokens, and one that held others.
            const few = await make(backend, { type, seed: 510 });
            few.fill({ from: 0, to: tokens, pages: [2] });
            assertEquals(await backend.readPage({ cache: few.cache, page: 2, tokens }), bytes);
            const part = await make(backend, { type, seed: 510 });
            part.fill({ from: PAGE_TOKENS, to: LENGTH, pages: [0, 0] });
            backend.writePage({ cache: part.cache, page: 0, tokens }, bytes);
            const whole = await full.attend(tokens - 1, [3]);
            assertSameBits(await part.attend(tokens - 1, [0]), whole, `${tokens} tokens`);
          }
        });
      });

      Deno.test(`${what} are copied in part, and go on from there on their own`, async () => {
        await withBackend(open, async (backend) => {
          const filledCache = await make(backend, { type, seed: 520 });
          const { cache } = filledCache;
          filledCache.fill({ from: 0, to: LENGTH, pages: [1, 2] });
          for (const tokens of [1, 11, 40, PAGE_TOKENS]) {
            filledCache.fill({ from: PAGE_TOKENS, to: LENGTH, pages: [0, 3] });
            backend.copyPage({ cache, page: 1, tokens }, 3);
            if (tokens < PAGE_TOKENS) {
              filledCache.fill({ from: tokens, to: PAGE_TOKENS, pages: [3] });
            }
            const whole = await backend.readPage({ cache, page: 1, tokens: PAGE_TOKENS });
            const copy = await backend.readPage({ cache, page: 3, tokens: PAGE_TOKENS });
            assertEquals(copy, whole, `${tokens} tokens`);
          }
          const other = await backend.readPage({ cache, page: 2, tokens: 39 });
          assertNotEquals(await backend.readPage({ cache, page: 3, tokens: 39 }), other);
        });
      });
    }

    Deno.test(`${name}: pages of ${kind} that are none, and bytes of another length, are refused`, async () => {
      await withBackend(open, async (backend) => {
        const { cache } = await make(backend, { type: "f16", seed: 530 });
        const bytes = new Uint8Array(backend.pageBytes(cache, 3));
        for (const page of [-1, PAGES, 0.5]) {
          const message = `its number is ${page}, must be 0 to ${PAGES - 1}`;
          const part = { cache, page, tokens: 3 };
          await assertRejects(() => backend.readPage(part), RangeError, message);
          assertThrows(() => backend.writePage(part, bytes), RangeError, message);
          assertThrows(() => backend.copyPage(part, 0), RangeError, message);
          assertThrows(() => backend.copyPage({ ...part, page: 0 }, page), RangeError, message);
        }
        for (const tokens of [0, PAGE_TOKENS + 1, 1.5]) {
          const message = `its tokens are ${tokens}, must be 1 to ${PAGE_TOKENS}`;
          assertThrows(() => backend.pageBytes(cache, tokens), RangeError, message);
          const part = { cache, page: 0, tokens };
          await assertRejects(() => backend.readPage(part), RangeError, message);
          assertThrows(() => backend.copyPage(part, 1), RangeError, message);
        }
        const wrong = bytes.subarray(1);
        assertThrows(
          () => backend.writePage({ cache, page: 0, tokens: 3 }, wrong),
          RangeError,
          `its bytes are ${wrong.length}, must be ${bytes.length} for 3 tokens`,
        );
      });
    });
  }

  Deno.test(`${name}: a smaller type takes fewer bytes a token, and a name is given to the bits`, async () => {
    await withBackend(open, (backend) => {
      const size = { layers: 1, pages: 1, kvHeads: 1, keyDim: 64, valueDim: 64 };
      const bytes = KV_TYPES.map((type) =>
        backend.pageBytes(backend.createKvCache({ type, ...size }), PAGE_TOKENS)
      );
      // The reference rounds, but keeps what it has rounded as float32.
      const keepsFloats = backend.numerics.includes("reference");
      const expected = keepsFloats ? [512, 512, 512] : [512, 256, 144];
      assertEquals(bytes.map((all) => all / PAGE_TOKENS), expected);
      assertEquals(backend.numerics.startsWith(backend.name), true);
      return Promise.resolve();
    });
  });
}
