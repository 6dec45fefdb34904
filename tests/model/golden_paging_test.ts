/** Experts that come from their file when they are chosen give the bits of those that are resident. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Backend, Buffer } from "../../src/backend/backend.ts";
import { createWasmBackend, type WasmBackendOptions } from "../../src/backend/wasm/mod.ts";
import { LoadTable, type MatrixLoad } from "../../src/backend/wasm/paging/load_table.ts";
import type { PagedExperts } from "../../src/backend/wasm/paging/paged_experts.ts";
import type { ExpertPager } from "../../src/backend/wasm/paging/pager.ts";
import type { PagingOptions } from "../../src/backend/wasm/paging/options.ts";
import { runsOf } from "../../src/backend/wasm/paging/reading.ts";
import type { ExpertDemand, WasmPlan } from "../../src/backend/wasm/plan.ts";
import { main as repack } from "../../src/cli/repack.ts";
import { CapacityError, OptionError, UnsupportedOpError } from "../../src/errors.ts";
import { POLICY_NAMES } from "../../src/experts/policy.ts";
import { recordedIo } from "../cli/_io.ts";
import { type Golden, goldens } from "./_goldens.ts";
import { assertSameOutcome, type Opened, type Outcome, outcomeOf, withOpened } from "./_outcome.ts";

/** Cases whose experts are computed from several tensors or several parts of one. */
const NOT_PAGEABLE = ["models/deepseek_v3_fp8", "models/gpt_oss"];

const CASES = goldens().filter(({ mixture }) => mixture);
const PAGEABLE = CASES.filter(({ id }) => !NOT_PAGEABLE.includes(id));

type Body = (opened: Opened) => unknown;

type RunOptions = Partial<WasmBackendOptions> & { readonly path?: string };

async function run(
  golden: Golden,
  { path = golden.path, ...options }: RunOptions,
  body: Body = () => {},
): Promise<Outcome> {
  let outcome: Outcome | undefined;
  await withOpened(path, {
    open: () => createWasmBackend({ threads: 2, activations: "q8", ...options }),
    body: async (opened) => {
      outcome = await outcomeOf(golden, opened.evaluator);
      await body(opened);
    },
  });
  return outcome!;
}

/** A case of the small ones that are always there. */
function golden(id: string): Golden {
  const found = CASES.find((candidate) => candidate.id === id);
  assert(found !== undefined, `there is no golden ${id}`);
  return found;
}

/** What a case's experts are, by layer; all are in memory after it. */
interface Shape {
  readonly layers: number;
  /** Experts a layer, at most. */
  readonly experts: number;
  readonly topK: number;
  /** Bytes of an expert in memory. */
  readonly slotBytes: number;
}

/** The experts ops of a plan. */
function demandsOf({ segments }: WasmPlan): ExpertDemand[] {
  return segments.flatMap(({ demand }) => demand === null ? [] : [demand]);
}

function shapeOf(plans: readonly WasmPlan[]): Shape {
  const demands = demandsOf(plans[0]);
  const experts = demands.map((demand) => demand.experts as PagedExperts);
  return {
    layers: demands.length,
    experts: Math.max(...experts.map(({ count }) => count)),
    topK: demands[0].topK,
    slotBytes: Math.max(
      ...experts.map(({ packedBytes }) =>
        packedBytes.reduce((sum, bytes) => sum + Math.ceil(bytes / 64) * 64, 0)
      ),
    ),
  };
}

async function shapeOfCase({ path, sequences }: Golden): Promise<Shape> {
  let shape: Shape | undefined;
  await withOpened(path, {
    open: () =>
      createWasmBackend({ threads: 1, activations: "q8", paging: { cacheBytes: 2 ** 28 } }),
    body: async ({ evaluator, plans }) => {
      await evaluator.allLogits([sequences[0]], { chunk: 1 });
      shape = shapeOf(plans);
    },
  });
  return shape!;
}

/** Counts the distinct experts that each step chooses, by layer. */
function countChosen(backend: Backend): ReadonlyMap<number, number> {
  const chosen = new Map<number, number>();
  const submit = backend.submit.bind(backend);
  backend.submit = (plan) => {
    submit(plan);
    for (const { experts: { layer }, expertIds, rows } of demandsOf(plan as WasmPlan)) {
      // Copied at the call, so that the next step cannot overwrite it.
      void backend.readIntegers(expertIds, { rows }).then((ids) => {
        chosen.set(layer, (chosen.get(layer) ?? 0) + new Set(ids).size);
      });
    }
  };
  return chosen;
}

/** Runs a case with some slots; what the store says of its traffic must add up. */
async function runPaged(
  golden: Golden,
  options: RunOptions & { slots: number; shape: Shape; paging: PagingOptions },
  body: Body = () => {},
): Promise<Outcome> {
  const { slots, shape, paging, path = golden.path, ...rest } = options;
  const cacheBytes = slots * shape.slotBytes;
  let chosen: ReadonlyMap<number, number>;
  let outcome: Outcome | undefined;
  await withOpened(path, {
    open: async () => {
      const all = { threads: 2, activations: "q8", ...rest } as const;
      const backend = await createWasmBackend({ ...all, paging: { cacheBytes, ...paging } });
      chosen = countChosen(backend);
      return backend;
    },
    body: async (opened) => {
      outcome = await outcomeOf(golden, opened.evaluator);
      assertTraffic(opened, { chosen, slots, lookAhead: paging.lookAhead });
      await body(opened);
    },
  });
  return outcome!;
}

function assertTraffic(
  { backend, plans }: Opened,
  { chosen, slots, lookAhead }: {
    chosen: ReadonlyMap<number, number>;
    slots: number;
    lookAhead?: boolean;
  },
): void {
  const bytesEach = new Map(
    demandsOf(plans[0]).map((demand) => {
      const loads = loadsOf(demand);
      return [demand.experts.layer, loads[0].reduce((sum, { byteLength }) => sum + byteLength, 0)];
    }),
  );
  let residents = 0;
  for (const { layer, resident, hits, prefetched, misses, bytesRead } of backend.expertTraffic()) {
    const what = `layer ${layer}: ${hits} hits, ${prefetched} prefetched, ${misses} misses`;
    assertEquals(hits + prefetched + misses, chosen.get(layer), what);
    const loads = bytesRead / bytesEach.get(layer)!;
    assert(Number.isInteger(loads) && loads >= misses + prefetched, `${loads} loads, ${what}`);
    if (lookAhead === false) assertEquals([prefetched, loads], [0, misses], what);
    residents += resident;
  }
  assert(residents > 0 && residents <= slots, `${residents} experts are in ${slots} slots`);
}

/** The matrices to read for each expert of a layer. */
function loadsOf(demand: ExpertDemand): MatrixLoad[][] {
  const experts = demand.experts as PagedExperts;
  const matrices = experts.matrices(new LoadTable({ slots: 1 }), new Map());
  return Array.from(
    { length: experts.count },
    (_, expert) => matrices.map((matrix) => ({ ...matrix.at(expert), address: 0 })),
  );
}

/** How a case is run at each budget; every option has its turns. */
const WAYS: (RunOptions & { paging: PagingOptions })[] = [
  { threads: 1, paging: { lookAhead: true, readers: 0, policy: "least-stale" } },
  { threads: 2, paging: { lookAhead: false, readers: 1, policy: "lru" } },
  { threads: 2, paging: {} },
  { threads: 1, paging: { lookAhead: false, readers: 0, policy: "lfu" } },
];

function budgetsOf({ layers, experts, topK }: Shape): number[] {
  return [Math.ceil(layers * experts / 2), experts, topK - 1, 1];
}

for (const [index, golden] of PAGEABLE.entries()) {
  Deno.test(`${golden.id} has the same bits whatever the budget for its experts`, async () => {
    const resident = await run(golden, {});
    let shape: Shape | undefined;
    const paging = { cacheBytes: 2 ** 28, readers: 2, lookAhead: true };
    const ample = await run(golden, { paging }, ({ plans, backend }) => {
      shape = shapeOf(plans);
      const { misses, bytesRead } = backend.expertTraffic()[0];
      assert(misses > 0 && bytesRead > 0, "experts come from the file");
    });
    assertSameOutcome(ample, resident);
    // A budget of a layer or more, and one that is less than a token chooses, in turn.
    for (const [i, slots] of budgetsOf(shape!).entries()) {
      if (i % 2 !== index % 2) continue;
      const paged = await runPaged(golden, { ...WAYS[i], slots, shape: shape! });
      assertSameOutcome(paged, resident);
    }
  });
}

Deno.test("every policy gives the same bits, with and without look-ahead", async () => {
  const one = golden("models/deepseek_v3");
  const resident = await run(one, { activations: "f32" });
  const shape = await shapeOfCase(one);
  for (const [i, policy] of POLICY_NAMES.entries()) {
    for (const [j, lookAhead] of [true, false, undefined].entries()) {
      // Each policy and each kind of look-ahead meets both budgets.
      const slots = (i + j) % 2 === 0 ? shape.topK + 1 : shape.layers * shape.experts;
      const options = { slots, shape, paging: { policy, lookAhead } };
      assertSameOutcome(await runPaged(one, { ...options, activations: "f32" }), resident);
    }
  }
});

Deno.test("look-ahead fetches experts before they are asked for", async () => {
  const one = golden("models/deepseek_v3");
  const shape = await shapeOfCase(one);
  const prefetched: number[] = [];
  const options = { slots: shape.experts + 4, shape, paging: { lookAhead: true, readers: 1 } };
  await runPaged(one, options, ({ backend }) => {
    prefetched.push(...backend.expertTraffic().map((layer) => layer.prefetched));
  });
  // Nobody looks ahead to the first layer.
  assertEquals(prefetched[0], 0);
  assert(prefetched.slice(1).every((count) => count > 0), `${prefetched} are prefetched`);
});

interface Predictions {
  made: number;
  right: number;
}

/** Compares what each layer was expected to choose with what it chooses, beside the store. */
function watchPredictions(backend: Backend): ReadonlyMap<number, Predictions> {
  const counts = new Map<number, Predictions>();
  const expected = new Map<number, Promise<Int32Array>>();
  const watched = new Set<ExpertPager>();
  // Copied at the call, so that the next layer cannot overwrite them.
  const idsOf = (ids: Buffer, rows: number) => backend.readIntegers(ids, { rows });
  const watch = (pager: ExpertPager) => {
    const turns = pager.turns.bind(pager);
    pager.turns = (demand, predict) => {
      const { experts: { layer }, expertIds, rows, ahead } = demand;
      const guess = expected.get(layer);
      expected.delete(layer);
      void Promise.all([guess, idsOf(expertIds, rows)]).then(([guess, chosen]) => {
        const { made, right } = counts.get(layer) ?? { made: 0, right: 0 };
        const named = new Set(guess);
        const both = named.intersection(new Set(chosen));
        counts.set(layer, { made: made + named.size, right: right + both.size });
      });
      return turns(
        demand,
        predict === null ? null : () => {
          predict();
          expected.set(ahead!.experts.layer, idsOf(ahead!.expertIds, rows));
        },
      );
    };
    watched.add(pager);
  };
  const submit = backend.submit.bind(backend);
  backend.submit = (plan) => {
    for (const { experts: { pager } } of demandsOf(plan as WasmPlan)) {
      if (!watched.has(pager!)) watch(pager!);
    }
    submit(plan);
  };
  return counts;
}

Deno.test("look-ahead is told how often it is right, whatever is resident", async () => {
  const one = golden("models/deepseek_v3");
  const { layers, experts, slotBytes } = await shapeOfCase(one);
  for (const slots of [layers * experts, experts + 4]) {
    const paging = { cacheBytes: slots * slotBytes, lookAhead: true, readers: 1 };
    let counts: ReadonlyMap<number, Predictions>;
    await withOpened(one.path, {
      open: async () => {
        const backend = await createWasmBackend({ threads: 1, activations: "q8", paging });
        counts = watchPredictions(backend);
        return backend;
      },
      body: async ({ backend, evaluator }) => {
        await outcomeOf(one, evaluator);
        const [first, ...others] = backend.expertTraffic();
        // Nobody looks ahead to the first layer.
        assertEquals(first.predictions, { made: 0, right: 0 });
        assert(others.length > 0);
        for (const { layer, predictions } of others) {
          assertEquals(predictions, counts.get(layer));
          const { made, right } = predictions;
          assert(right > 0 && right < made, `${right} of ${made} predictions are right`);
        }
      },
    });
  }
  const paging = { cacheBytes: layers * experts * slotBytes, lookAhead: false };
  await run(one, { paging }, ({ backend }) => {
    for (const { predictions } of backend.expertTraffic()) {
      assertEquals(predictions, { made: 0, right: 0 });
    }
  });
});

Deno.test("paged experts may lie in several memories", async () => {
  const one = golden("gguf/deepseek_v3.q8_0");
  const resident = await run(one, {});
  const shape = await shapeOfCase(one);
  for (const [threads, lookAhead] of [[1, true], [2, false], [2, true]] as const) {
    const memories = new Set<number>();
    const options = { threads, banks: 8, bankBytes: 200 * 1024, paging: { lookAhead } };
    const slots = shape.layers * shape.experts - 3;
    const paged = await runPaged(one, { ...options, slots, shape }, ({ plans }) => {
      const banks = demandsOf(plans[0]).map(({ experts }) => experts.tables[0].bank.index);
      for (const bank of banks) memories.add(bank);
    });
    assert(memories.size > 1, `paged experts are in the memories ${[...memories]}`);
    assertSameOutcome(paged, resident);
  }
});

Deno.test("a repacked file's experts are one read each and give the same bits", async () => {
  const one = golden("gguf/deepseek_v3.q8_0");
  const resident = await run(one, {});
  const shape = await shapeOfCase(one);
  const folder = await Deno.makeTempDir();
  try {
    const path = `${folder}/repacked.gguf`;
    assertEquals(await repack(["--model", one.path, "--out", path], recordedIo()), 0);
    assertSameOutcome(await run(one, { path }), resident);
    for (const slots of budgetsOf(shape)) {
      const options = { path, slots, shape, paging: { lookAhead: true } };
      const paged = await runPaged(one, options, ({ plans }) => {
        const loads = demandsOf(plans[0]).flatMap(loadsOf);
        const reads = loads.map((matrices) => runsOf({ bank: 0, matrices }).length);
        assertEquals(new Set(reads), new Set([1]));
      });
      assertSameOutcome(paged, resident);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

for (const { id, path } of CASES.filter(({ id }) => NOT_PAGEABLE.includes(id))) {
  Deno.test(`paging ${id} is refused, for its experts are not one part of the file each`, async () => {
    const open = () =>
      createWasmBackend({ threads: 1, activations: "q8", paging: { cacheBytes: 2 ** 28 } });
    await assertRejects(
      () => withOpened(path, { open, body: () => Promise.resolve() }),
      UnsupportedOpError,
      "is put together from several parts of its file, must be one part",
    );
  });
}

const REFUSED: [string, PagingOptions, new (message: string) => Error, string][] = [
  [
    "less room than one expert takes",
    { cacheBytes: 12287 },
    CapacityError,
    "the memory budget leaves 12287 bytes for them",
  ],
  ["negative room", { memoryBytes: 1 }, CapacityError, "must leave at least the 12288 of one"],
  ["half a reader", { readers: 0.5 }, OptionError, "their readers are 0.5, must be 0 to 64"],
  ["65 readers", { readers: 65 }, OptionError, "their readers are 65, must be 0 to 64"],
];

for (const [what, paging, errorClass, message] of REFUSED) {
  Deno.test(`paging with ${what} is refused`, async () => {
    const { path, sequences } = golden("models/deepseek_v3");
    await assertRejects(
      () =>
        withOpened(path, {
          open: () => createWasmBackend({ threads: 1, activations: "q8", paging }),
          body: async ({ evaluator }) => {
            await evaluator.allLogits([sequences[0]], { chunk: 1 });
          },
        }),
      errorClass,
      message,
    );
  });
}
