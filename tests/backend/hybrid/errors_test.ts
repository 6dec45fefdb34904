/** What fails on either side is told by the next read, and leaves nothing half done. */

import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { createHybridBackend } from "../../../src/backend/hybrid/mod.ts";
import { createReferenceBackend } from "../../../src/backend/reference/mod.ts";
import { BackendLostError, ExpertReadError, FormatError } from "../../../src/errors.ts";
import { assertSameBits } from "../_harness.ts";
import { HIDDEN, inputs, LAYERS, outputs, randomExperts, twoLayers } from "./_experts.ts";
import { turn, type Watch, watched } from "./_watched.ts";

const placement = {
  layers: LAYERS.map((layer) => ({ layer, resident: [0, 2, 4] })),
};

/** A hybrid whose sides fail as the test says. */
function openFailing(
  { device = {}, host = {} }: Partial<Record<"device" | "host", Partial<Watch>>>,
) {
  const log: string[] = [];
  const backend = createHybridBackend({
    device: watched(createReferenceBackend(), { name: "device", log, ...device }),
    host: watched(createReferenceBackend(), { name: "host", log, ...host }),
    placement,
  });
  return { log, backend };
}

/** Throws at the calls of one name that are due. */
function failure(what: string) {
  const state = { error: null as Error | null };
  const onCall = (called: string) => {
    if (called === what && state.error !== null) throw state.error;
  };
  return { state, onCall };
}

Deno.test("hybrid: experts that the host cannot read fail the steps up to the next read, and no later ones", async () => {
  const { state, onCall } = failure("submit");
  const { log, backend } = openFailing({ host: { onCall } });
  const layers = await twoLayers(backend);
  const rows = inputs(7);
  const expected = await outputs(backend, { layers, rows });
  const plan = layers.plan(7);
  state.error = new ExpertReadError("the file is gone");
  backend.write(layers.x, rows);
  backend.submit(plan);
  await turn();
  state.error = null;
  // It may build upon what has not been computed.
  log.length = 0;
  backend.submit(plan);
  await turn();
  assertEquals(log, []);
  const reads = [
    () => backend.read(layers.x, { rows: 7 }),
    () => backend.readIntegers(layers.expertIds[0]),
  ];
  for (const read of reads) await assertRejects(read, ExpertReadError, "the file is gone");
  assertSameBits(await outputs(backend, { layers, rows }), expected, "the next step");
  backend.close();
});

Deno.test("hybrid: a failure is told to whoever has asked already", async () => {
  const { state, onCall } = failure("submit");
  const { backend } = openFailing({ host: { onCall } });
  const layers = await twoLayers(backend);
  const plan = layers.plan(7);
  state.error = new ExpertReadError("the file is gone");
  backend.write(layers.x, inputs(7));
  backend.submit(plan);
  const asked = [backend.read(layers.x, { rows: 7 }), backend.read(layers.weights[1])];
  const results = await Promise.allSettled(asked);
  assertEquals(results.map(({ status }) => status), ["rejected", "rejected"]);
  backend.close();
});

for (const side of ["device", "host"] as const) {
  for (const what of ["submit", "read"]) {
    Deno.test(`hybrid: a ${side} that is lost at a ${what} ends both sides, and every call says why`, async () => {
      const { state, onCall } = failure(what);
      const { log, backend } = openFailing({ [side]: { onCall } });
      const layers = await twoLayers(backend);
      const plan = layers.plan(7);
      backend.write(layers.x, inputs(7));
      state.error = new BackendLostError("cannot compute: it is lost");
      backend.submit(plan);
      const lost = "cannot compute: it is lost";
      await assertRejects(() => backend.read(layers.x), BackendLostError, lost);
      await assertRejects(() => backend.readIntegers(layers.expertIds[0]), BackendLostError, lost);
      assertThrows(() => backend.submit(plan), BackendLostError, lost);
      assertThrows(() => backend.record(() => {}), BackendLostError, lost);
      assertThrows(() => backend.write(layers.x, inputs(1)), BackendLostError, lost);
      const upload = () => backend.uploadExperts(randomExperts({ layer: 9, count: 6 }));
      await assertRejects(upload, BackendLostError, lost);
      const move = { layer: LAYERS[0], slot: 0, expert: 1 };
      await assertRejects(() => backend.place(move), BackendLostError, lost);
      backend.close();
      const closed = log.filter((line) => line.endsWith("close"));
      assertEquals(closed, ["device close", "host close"]);
    });
  }
}

for (const what of ["read", "replaceExpert"]) {
  Deno.test(`hybrid: a device that is lost at a ${what} between plans is lost for good`, async () => {
    const { state, onCall } = failure(what);
    const { log, backend } = openFailing({ device: { onCall } });
    const { x } = await twoLayers(backend);
    state.error = new BackendLostError("cannot compute: it is lost");
    const move = { layer: LAYERS[0], slot: 0, expert: 1 };
    const call = () => what === "read" ? backend.read(x) : backend.place(move);
    await assertRejects(async () => void await call(), BackendLostError, "it is lost");
    assertEquals(log.slice(-2), ["device close", "host close"]);
    state.error = null;
    await assertRejects(() => backend.read(x), BackendLostError, "it is lost");
  });
}

Deno.test("hybrid: a backend may be closed while a plan waits, and the host computes no more", async () => {
  const waiting = Promise.withResolvers<void>();
  const { log, backend } = openFailing({ device: { hold: () => waiting.promise } });
  const layers = await twoLayers(backend);
  backend.write(layers.x, inputs(7));
  backend.submit(layers.plan(7));
  const reading = backend.read(layers.x);
  const told = assertRejects(() => reading, BackendLostError, "has been closed");
  await turn();
  backend.close();
  backend.close();
  waiting.resolve();
  await told;
  assertEquals(log.slice(-2), ["device close", "host close"]);
  assertEquals(log.includes("host submit"), false);
});

Deno.test("hybrid: a backend may be closed while an expert moves", async () => {
  const slow = Promise.withResolvers<void>();
  const { log, backend } = openFailing({});
  let moving = false;
  const tensors = randomExperts({ layer: LAYERS[0], count: 6 });
  const up = tensors.up.map((tensor) => ({
    ...tensor,
    async read(offset: number, into: Uint8Array) {
      if (moving) await slow.promise;
      await tensor.read(offset, into);
    },
  }));
  await backend.uploadExperts({ ...tensors, up });
  moving = true;
  const move = backend.place({ layer: LAYERS[0], slot: 0, expert: 1 });
  const told = assertRejects(() => move, BackendLostError, "has been closed");
  await turn();
  backend.close();
  slow.resolve();
  await told;
  assertEquals(log, ["device close", "host close"]);
});

Deno.test("hybrid: what is wrong with something that had to wait is told by the next read", async () => {
  const { backend } = openFailing({ device: { hold: turn } });
  const layers = await twoLayers(backend);
  backend.write(layers.x, inputs(7));
  backend.submit(layers.plan(7));
  backend.write(layers.x, new Float32Array(HIDDEN + 1), 11);
  await assertRejects(() => backend.read(layers.x), RangeError, "cannot write a buffer");
  backend.submit(layers.plan(7));
  await backend.read(layers.x);
  backend.close();
});

Deno.test("hybrid: an expert of either side that is no number is refused by name", async () => {
  for (const bad of [1, 2]) {
    const { backend } = openFailing({});
    const tensors = randomExperts({ layer: LAYERS[0], count: 6 });
    const down = tensors.down.map((tensor, expert) => ({
      ...tensor,
      async read(offset: number, into: Uint8Array) {
        await tensor.read(offset, into);
        if (expert === bad) into.set([0x00, 0x7e]);
      },
    }));
    const upload = () => backend.uploadExperts({ ...tensors, down });
    await assertRejects(upload, FormatError, `down of expert ${bad}`);
    backend.close();
  }
});

Deno.test("hybrid: plans and experts of another backend are refused", async () => {
  const { backend } = openFailing({});
  const other = createReferenceBackend();
  const foreign = await twoLayers(other);
  assertThrows(() => backend.submit(foreign.plan(1)), RangeError, "it is another backend's");
  const experts = await other.uploadExperts(randomExperts({ layer: 1, count: 6 }));
  const tensors = randomExperts({ layer: 1, count: 1 });
  await assertRejects(
    () => backend.replaceExpert(experts, { slot: 0, tensors }),
    RangeError,
    "it is another backend's",
  );
  backend.close();
});
