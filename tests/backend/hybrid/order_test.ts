/** What runs when: on which side, beside what, and what has to wait. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { createHybridBackend } from "../../../src/backend/hybrid/mod.ts";
import { createReferenceBackend } from "../../../src/backend/reference/mod.ts";
import { assertSameBits, filled } from "../_harness.ts";
import {
  HIDDEN,
  inputs,
  LAYERS,
  outputs,
  TOP_K,
  twoLayers,
  uploadRandomExperts,
} from "./_experts.ts";
import { turn, watched } from "./_watched.ts";

const HALF = [0, 2, 4];
const ALL = [0, 1, 2, 3, 4, 5];

function placed(first: readonly number[], second: readonly number[]) {
  return { layers: [first, second].map((resident, i) => ({ layer: LAYERS[i], resident })) };
}

/** A hybrid of two reference backends that note what they do. */
function openWatched(options: {
  placement: ReturnType<typeof placed>;
  hold?: () => Promise<void>;
}) {
  const log: string[] = [];
  const device = watched(createReferenceBackend(), { name: "device", log, hold: options.hold });
  const host = watched(createReferenceBackend(), { name: "host", log });
  return { log, backend: createHybridBackend({ device, host, ...options }) };
}

/** The device's answers come when the test lets them. */
function gate() {
  let open = Promise.withResolvers<void>();
  return {
    hold: () => open.promise,
    release() {
      open.resolve();
      open = Promise.withResolvers<void>();
    },
  };
}

const READS = ["device read", "device readIntegers", "device read"];

Deno.test("hybrid: the device goes on while the host waits for it, and the host computes before the device gets its sums", async () => {
  const { hold, release } = gate();
  const { log, backend } = openWatched({ placement: placed(HALF, HALF), hold });
  const { x, plan } = await twoLayers(backend);
  backend.write(x, inputs(5));
  backend.submit(plan(5));
  // Up to the gate, one wait for all that it left, and at once what needs no host.
  const layer = ["device submit", ...READS, "device submit"];
  assertEquals(log, layer);
  await turn();
  assertEquals(log.length, layer.length, "the host has nothing to compute with yet");
  release();
  await turn();
  const host = ["host submit", "host read", "device submit"];
  assertEquals(log, [...layer, ...host, ...layer]);
  release();
  await turn();
  assertEquals(log, [...layer, ...host, ...layer, ...host]);
  backend.close();
});

Deno.test("hybrid: a layer waits for the device once and hands back once, less where nothing is missing", async () => {
  const expected = await twoLayersOnReference();
  for (
    const { placement, mixtures, crossings } of [
      { placement: placed([], []), mixtures: 2, crossings: 4 },
      { placement: placed(HALF, HALF), mixtures: 2, crossings: 4 },
      { placement: placed(ALL, [5]), mixtures: 1, crossings: 2 },
      { placement: placed(ALL, ALL), mixtures: 0, crossings: 0 },
    ]
  ) {
    const { backend } = openWatched({ placement });
    const layers = await twoLayers(backend);
    const rows = 8;
    assertClose(await outputs(backend, { layers, rows: inputs(rows) }), expected);
    const traffic = backend.traffic();
    assertEquals([traffic.mixtures, traffic.crossings], [mixtures, crossings]);
    // A row: its state, an id and a weight for each choice; back its sum.
    assertEquals(traffic.bytesFromDevice, mixtures * rows * (HIDDEN + 2 * TOP_K) * 4);
    assertEquals(traffic.bytesToDevice, mixtures * rows * HIDDEN * 4);
    let found = 0;
    for (const [i, { resident }] of placement.layers.entries()) {
      if (resident.length === ALL.length) continue;
      const ids = await backend.readIntegers(layers.expertIds[i], { rows });
      found += ids.filter((id) => resident.includes(id)).length;
    }
    assertEquals(traffic.onDevice, found);
    assertEquals(traffic.onHost, mixtures * rows * TOP_K - found);
    backend.close();
  }
});

Deno.test("hybrid: where all that a step chose lies on the device, the host does nothing", async () => {
  const { log, backend } = openWatched({ placement: placed(HALF, HALF) });
  const { x, plan, expertIds } = await twoLayers(backend);
  const one = plan(1);
  const found = { all: 0, some: 0 };
  for (let seed = 0; seed < 40; seed++) {
    const before = backend.traffic();
    log.length = 0;
    backend.write(x, inputs(1, seed));
    backend.submit(one);
    await backend.read(x, { rows: 1 });
    const after = backend.traffic();
    const ids = await Promise.all(
      expertIds.map((buffer) => backend.readIntegers(buffer, { rows: 1 })),
    );
    const missing = ids.map((layer) => layer.filter((id) => !HALF.includes(id)).length);
    const onHost = missing.filter((count) => count > 0).length;
    assertEquals(log.filter((line) => line === "host submit").length, onHost);
    assertEquals(after.crossings - before.crossings, LAYERS.length + onHost);
    assertEquals(after.onHost - before.onHost, missing[0] + missing[1]);
    found[onHost < 2 ? "all" : "some"] += 1;
  }
  assert(found.all > 0 && found.some > 0, `both happened: ${JSON.stringify(found)}`);
  backend.close();
});

Deno.test("hybrid: a row has the same bits alone and beside others, whatever those need of the host", async () => {
  const { backend } = openWatched({ placement: placed([4, 1, 2], [3]) });
  const layers = await twoLayers(backend);
  const rows = inputs(12);
  const together = await outputs(backend, { layers, rows });
  for (const [from, to] of [[0, 1], [1, 2], [2, 3], [3, 4], [4, 11], [11, 12]]) {
    const part = rows.slice(from * HIDDEN, to * HIDDEN);
    const alone = await outputs(backend, { layers, rows: part });
    assertSameBits(alone, together.slice(from * HIDDEN, to * HIDDEN), `rows from ${from}`);
  }
  backend.close();
});

Deno.test("hybrid: a neighbour's experts on the host change no bit of a row that needs none, not even of a zero", async () => {
  const { backend } = openWatched({ placement: placed([0, 1], []) });
  const experts = await uploadRandomExperts(backend, { layer: LAYERS[0], count: 6 });
  // Weights of zero: whatever the experts answer, negative zeros stay where their answers are negative.
  const run = async (ids: readonly (readonly number[])[]) => {
    const rows = ids.length;
    const out = filled(backend, HIDDEN, new Float32Array(rows * HIDDEN).fill(-0));
    const x = filled(backend, HIDDEN, inputs(rows));
    const expertIds = filled(backend, TOP_K, Int32Array.from(ids.flat()));
    const weights = filled(backend, TOP_K, new Float32Array(rows * TOP_K));
    const choice = { expertIds, weights, topK: TOP_K, activation: "silu" } as const;
    backend.submit(backend.record((ops) => ops.experts({ x, experts, ...choice, out, rows })));
    return await backend.read(out, { rows: 1 });
  };
  const alone = await run([[0, 1]]);
  assert(alone.some((value) => Object.is(value, -0)), "some are negative zeros");
  assertSameBits(await run([[0, 1], [2, 3]]), alone, "beside a row that needs the host");
  backend.close();
});

Deno.test("hybrid: what is written while a plan runs is seen by the next one only, as it was when it was written", async () => {
  const expected = [await twoLayersOnReference(1), await twoLayersOnReference(2)];
  const { hold, release } = gate();
  const { log, backend } = openWatched({ placement: placed(HALF, HALF), hold });
  const { x, plan } = await twoLayers(backend);
  const both = plan(8);
  const results: Promise<Float32Array>[] = [];
  const rows = inputs(8, 1);
  for (const seed of [1, 2]) {
    rows.set(inputs(8, seed));
    backend.write(x, rows);
    backend.submit(both);
    results.push(backend.read(x, { rows: 8 }));
    // The caller's array is the caller's.
    rows.fill(NaN);
  }
  assertEquals(log.filter((line) => line === "device submit").length, 2, "the second plan waits");
  let ended = false;
  const all = Promise.all(results).finally(() => ended = true);
  while (!ended) {
    release();
    await turn();
  }
  const actual = await all;
  for (const i of [0, 1]) assertClose(actual[i], expected[i]);
  assertThrows(
    () => backend.write(x, new Float32Array(HIDDEN + 1), 11),
    RangeError,
    "cannot write a buffer",
  );
  backend.close();
});

Deno.test("hybrid: pages that are changed while a plan runs are changed behind it, as they were handed over", async () => {
  const { hold, release } = gate();
  const { backend } = openWatched({ placement: placed(HALF, HALF), hold });
  const { x, plan } = await twoLayers(backend);
  const sizes = { layers: 1, pages: 3, kvHeads: 1, keyDim: 4, valueDim: 4 };
  const cache = backend.createKvCache({ type: "f32", ...sizes });
  const bytes = new Uint8Array(backend.pageBytes(cache, 2)).fill(1);
  backend.writePage({ cache, page: 0, tokens: 2 }, bytes);
  backend.write(x, inputs(5));
  backend.submit(plan(5));
  const before = backend.readPage({ cache, page: 0, tokens: 2 });
  backend.writePage({ cache, page: 0, tokens: 2 }, bytes.fill(2));
  backend.copyPage({ cache, page: 0, tokens: 2 }, 2);
  backend.writePage({ cache, page: 0, tokens: 2 }, bytes.fill(3));
  bytes.fill(4);
  const after = [0, 2].map((page) => backend.readPage({ cache, page, tokens: 2 }));
  for (let i = 0; i < 2; i++) {
    release();
    await turn();
  }
  const read = (await Promise.all([before, ...after])).map((page) => new Set(page));
  assertEquals(read, [new Set([1]), new Set([3]), new Set([2])]);
  backend.close();
});

/** What one backend makes of eight rows. */
async function twoLayersOnReference(seed = 1): Promise<Float32Array> {
  const backend = createReferenceBackend();
  const layers = await twoLayers(backend);
  return await outputs(backend, { layers, rows: inputs(8, seed) });
}

/** Equal but for how sums of float32 numbers of this size are rounded. */
function assertClose(actual: Float32Array, expected: Float32Array): void {
  assertEquals(actual.length, expected.length);
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const worst = actual.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i])), 0);
  assert(worst <= 2 ** -20 * largest, `a value is off by ${worst} where the largest is ${largest}`);
  assert(actual.every(Number.isFinite));
}
