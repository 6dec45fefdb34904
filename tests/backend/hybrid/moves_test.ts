/** Experts that move to the device while plans run. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Backend, ExpertTensors, TensorData } from "../../../src/backend/backend.ts";
import { createHybridBackend, type HybridBackend } from "../../../src/backend/hybrid/mod.ts";
import { createReferenceBackend } from "../../../src/backend/reference/mod.ts";
import { createWasmBackend } from "../../../src/backend/wasm/mod.ts";
import { createWebGpuBackend } from "../../../src/backend/webgpu/mod.ts";
import { FormatError, OptionError } from "../../../src/errors.ts";
import { GPU_SKIPPED, SKIP_NOTE } from "../../support/gpu.ts";
import { assertSameBits } from "../_harness.ts";
import { EXPERTS, inputs, LAYERS, outputs, randomExperts, twoLayers } from "./_experts.ts";
import { turn } from "./_watched.ts";

const [FIRST, SECOND] = LAYERS;

function placed(first: readonly number[], second: readonly number[]) {
  return { layers: [{ layer: FIRST, resident: first }, { layer: SECOND, resident: second }] };
}

async function open(
  placement: ReturnType<typeof placed>,
  device: Backend = createReferenceBackend(),
): Promise<HybridBackend> {
  const host = await createWasmBackend({ threads: 1, activations: "f32" });
  return createHybridBackend({ device, host, placement });
}

/** What a backend gives whose experts lie so from the start. */
async function resultAt(
  placement: ReturnType<typeof placed>,
  device?: Backend,
): Promise<Float32Array> {
  const backend = await open(placement, device);
  const result = await outputs(backend, { layers: await twoLayers(backend), rows: inputs(9) });
  backend.close();
  return result;
}

/** A layer's experts of which some reads wait or fail, or give something else. */
function meddledWith(
  layer: number,
  meddle: (tensor: TensorData, into: Uint8Array) => Promise<void> | void,
): ExpertTensors {
  const { gate, up, down } = randomExperts({ layer, count: EXPERTS });
  const all = (list: readonly TensorData[]) =>
    list.map((tensor) => ({
      ...tensor,
      async read(offset: number, into: Uint8Array) {
        await tensor.read(offset, into);
        await meddle(tensor, into);
      },
    }));
  return { layer, gate: all(gate), up: all(up), down: all(down) };
}

async function checkMoves(openDevice: () => Promise<Backend>): Promise<void> {
  const [before, after] = [placed([4, 1], [0, 2, 5]), placed([3, 1], [0, 4, 2])];
  const backend = await open(before, await openDevice());
  const layers = await twoLayers(backend);
  const rows = inputs(9);
  const expectedBefore = await resultAt(before, await openDevice());
  assertSameBits(await outputs(backend, { layers, rows }), expectedBefore, "before");
  // One into a slot whose expert moves on into another one.
  const moves = [
    { layer: FIRST, slot: 0, expert: 3 },
    { layer: SECOND, slot: 1, expert: 4 },
    { layer: SECOND, slot: 2, expert: 2 },
  ];
  const moving = Promise.all(moves.map((move) => backend.place(move)));
  const meanwhile = await outputs(backend, { layers, rows });
  await moving;
  assertEquals(backend.placement(), after);
  assertEquals(backend.traffic().moves, 3);
  const expected = await resultAt(after, await openDevice());
  assertSameBits(await outputs(backend, { layers, rows }), expected, "after");
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const isClose = meanwhile.every((value, i) => Math.abs(value - expected[i]) < 1e-5 * largest);
  assert(isClose, "what is computed between moves is the same but for rounding");
  backend.close();
}

const BITS = "after moves the bits are those of a backend whose experts lay there from the start";

Deno.test(`hybrid: ${BITS}`, async () => {
  await checkMoves(() => Promise.resolve(createReferenceBackend()));
});

Deno.test({
  name: `hybrid on a GPU: ${BITS}${SKIP_NOTE}`,
  ignore: GPU_SKIPPED !== undefined,
  fn: () => checkMoves(() => createWebGpuBackend()),
});

Deno.test("hybrid: an expert that is slow to read holds nobody up, and nothing has changed until it is there", async () => {
  const slow = Promise.withResolvers<void>();
  let moving = false;
  const backend = await open(placed([0], [0]));
  const layers = await twoLayers(
    backend,
    (layer) => meddledWith(layer, () => moving ? slow.promise : undefined),
  );
  const rows = inputs(9);
  const before = await outputs(backend, { layers, rows });
  moving = true;
  let done = false;
  const move = backend.place({ layer: FIRST, slot: 0, expert: 5 }).then(() => done = true);
  for (let step = 0; step < 5; step++) {
    assertSameBits(await outputs(backend, { layers, rows }), before, `step ${step}`);
    await turn();
  }
  assertEquals([done, backend.placement()], [false, placed([0], [0])]);
  slow.resolve();
  await move;
  assertEquals(backend.placement(), placed([5], [0]));
  assertSameBits(await outputs(backend, { layers, rows }), await resultAt(placed([5], [0])), "5");
  backend.close();
});

Deno.test("hybrid: where a moving expert cannot be read, everything stays as it was", async () => {
  let gone = false;
  const backend = await open(placed([0, 1], [0]));
  const layers = await twoLayers(backend, (layer) =>
    meddledWith(layer, ({ name }) => {
      if (gone) throw new FormatError(`cannot read ${name}: the file is gone`);
    }));
  const rows = inputs(9);
  const before = await outputs(backend, { layers, rows });
  gone = true;
  const move = { layer: FIRST, slot: 1, expert: 5 };
  await assertRejects(() => backend.place(move), FormatError, "expert 5: the file is gone");
  assertEquals([backend.placement(), backend.traffic().moves], [placed([0, 1], [0]), 0]);
  assertSameBits(await outputs(backend, { layers, rows }), before, "after a move that failed");
  gone = false;
  await backend.place(move);
  const after = await resultAt(placed([0, 5], [0]));
  assertSameBits(await outputs(backend, { layers, rows }), after, "after one that did not");
  backend.close();
});

Deno.test("hybrid: a slot whose expert turns out to be no numbers stays empty until the move is tried again", async () => {
  let damaged = false;
  const backend = await open(placed([0, 1], [0]));
  const layers = await twoLayers(backend, (layer) =>
    meddledWith(layer, ({ name }, into) => {
      // The first scale of Q8_0 is a NaN.
      if (damaged && name.includes("down")) into.set([0x00, 0x7e]);
    }));
  const rows = inputs(9);
  damaged = true;
  const move = { layer: FIRST, slot: 1, expert: 5 };
  await assertRejects(() => backend.place(move), FormatError, "down of expert 5");
  assertEquals(backend.placement(), placed([0, 5], [0]));
  const { onDevice } = backend.traffic();
  // The host has all that the device has not.
  const result = await outputs(backend, { layers, rows });
  assertSameBits(result, await resultAt(placed([0], [0])), "with an empty slot");
  const ids = await Promise.all(layers.expertIds.map((buffer) => backend.readIntegers(buffer)));
  const zeros = ids.map((of) => of.subarray(0, 18).filter((id) => id === 0).length);
  assertEquals(backend.traffic().onDevice - onDevice, zeros[0] + zeros[1]);
  damaged = false;
  await backend.place(move);
  const after = await resultAt(placed([0, 5], [0]));
  assertSameBits(await outputs(backend, { layers, rows }), after, "when it has come");
  backend.close();
});

Deno.test("hybrid: moves that make no sense are refused, and one to where the expert lies does nothing", async () => {
  const backend = await open(placed([4, 1], []));
  await twoLayers(backend);
  for (
    const [move, message] of [
      [{ layer: 9, slot: 0, expert: 0 }, "layer 9 has no experts"],
      [{ layer: FIRST, slot: 2, expert: 0 }, "its slot is 2, must be from 0 to 1"],
      [{ layer: FIRST, slot: 0, expert: 6 }, "it is 6, must be from 0 to 5"],
      [{ layer: FIRST, slot: 0, expert: 1 }, "it lies in slot 1, must be on the host"],
      [{ layer: SECOND, slot: 0, expert: 1 }, "its slot is 0, must be on a layer that has slots"],
    ] as const
  ) {
    await assertRejects(() => backend.place(move), RangeError, message);
  }
  await backend.place({ layer: FIRST, slot: 0, expert: 4 });
  assertEquals([backend.placement(), backend.traffic().moves], [placed([4, 1], []), 0]);
  backend.close();
});

Deno.test("hybrid: residents that are no experts, or the same twice, are refused", async () => {
  for (const resident of [[6], [-1], [0.5], [2, 3, 2]]) {
    const backend = await open(placed(resident, []));
    const wrong = resident.at(-1);
    await assertRejects(
      () => twoLayers(backend),
      OptionError,
      `layer ${FIRST}: expert ${wrong} is to be resident, must be one of the 6 from 0 on`,
    );
    backend.close();
  }
});

Deno.test("hybrid: other placements have other names for their bits, and both sides' memory counts", async () => {
  const backends = [await open(placed([4, 1], [])), await open(placed([1, 4], []))];
  const [one, other] = backends;
  assert(one.numerics !== other.numerics);
  for (const backend of backends) await twoLayers(backend);
  const all = await open(placed([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]));
  await twoLayers(all);
  const [some, whole] = [one.memory().weights, all.memory().weights];
  // Of the reference's float32, ten experts fewer; of the host's Q8_0 twelve.
  const [width, inner] = [32, 64];
  const values = 3 * width * inner;
  assertEquals(some - whole, 12 * values * 34 / 32 - 10 * values * 4);
  assertEquals(one.expertTraffic().map(({ layer, resident }) => [layer, resident]), [
    [FIRST, 6],
    [SECOND, 6],
  ]);
  for (const backend of [...backends, all]) backend.close();
});
