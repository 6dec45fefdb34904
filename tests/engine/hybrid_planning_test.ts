import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import type { Backend } from "../../src/backend/backend.ts";
import { MeasuringBackend } from "../../src/backend/measuring.ts";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { MADE_UP_MODELS, madeUpModel, type MadeUpName } from "../../src/bench/made_up_models.ts";
import { checkWorthwhile, hostProbeOf, planFor } from "../../src/engine/hybrid_planning.ts";
import { KNOWN_DEVICE, measureDevice, measureHost } from "../../src/engine/hybrid_rates.ts";
import { chooseSizes } from "../../src/engine/sizing.ts";
import type { EngineOptions } from "../../src/engine/types.ts";
import { CapacityError, OptionError, UnsupportedOpError } from "../../src/errors.ts";
import { workspaceBytes } from "../../src/experts/hybrid_model.ts";
import { outlineFromTensors } from "../../src/experts/outline_tensors.ts";
import type { Rates } from "../../src/experts/step_time.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import type { TensorSource } from "../../src/formats/tensor_source.ts";
import { loadModel, readModelConfig } from "../../src/model/registry.ts";
import { TINY_MODEL } from "../cli/_io.ts";
import { TINY_V3 } from "../support/fixtures.ts";

/** A GPU that is worth having, and a slow CPU. */
const FAST_GPU: Rates = {
  device: { bytesPerSecond: 1e12, operationsPerSecond: 1e13, layerSeconds: 1e-5 },
  host: { threads: 2, bytesPerSecond: 1e8, operationsPerSecond: 1e9, roundSeconds: 0 },
  crossingSeconds: 1e-4,
};
const FAST_CPU: Rates = {
  ...FAST_GPU,
  host: { threads: 2, bytesPerSecond: 1e11, operationsPerSecond: 1e12, roundSeconds: 0 },
  crossingSeconds: 0.011,
};

const OPTIONS: EngineOptions = {
  model: TINY_V3,
  backend: "hybrid",
  activations: "q16",
  threads: 1,
  slots: 2,
  chunkTokens: 64,
  contextLength: 256,
  gpuBytes: 26_000_000,
  hybrid: { rates: FAST_GPU },
};

async function planned(options: Partial<EngineOptions>, source?: TensorSource) {
  const all = { ...OPTIONS, ...options };
  const opened = source ?? await openCheckpoint(all.model);
  try {
    const config = readModelConfig(opened);
    const sizes = chooseSizes({ ...all, memoryBytes: all.gpuBytes, config });
    return await planFor(opened, { options: all, sizes });
  } finally {
    opened.close();
  }
}

Deno.test("a file's own tensors are planned, with its cache and workspace, within the GPU's memory", async () => {
  const plan = await planned({});
  const { budget, always, experts, cache, workspace } = plan.device;
  assertEquals(budget, 26_000_000);
  assert(always + experts + cache + workspace <= budget);
  assert(plan.experts.resident > 0 && plan.experts.resident < plan.experts.all);
  assertEquals(plan.experts.all, 5 * 24);
  assertEquals(plan.verdict.best, "hybrid");
  checkWorthwhile(plan, {});
  const more = await planned({ gpuBytes: 28_000_000 });
  assert(more.experts.resident > plan.experts.resident);
});

Deno.test("recorded choices decide who is resident; those of another model are refused", async () => {
  const counts = [1, 2, 3, 4, 5].map((layer) => ({
    layer,
    counts: Array.from({ length: 24 }, (_, id) => id >= 20 ? 500 : 0),
  }));
  const plan = await planned({ gpuBytes: 22_300_000, hybrid: { rates: FAST_GPU, counts } });
  assert(plan.recorded);
  for (const { layer, resident } of plan.placement.layers) {
    assert(resident.length >= 4 && resident.length < 24, `layer ${layer}: ${resident}`);
    assertEquals(resident.slice(0, 4), [20, 21, 22, 23]);
  }
  await assertRejects(
    () => planned({ hybrid: { rates: FAST_GPU, counts: counts.slice(1) } }),
    OptionError,
    "it has layers with experts 2: 24, 3: 24, 4: 24, 5: 24, must be of this model, which has 1: 24,",
  );
});

Deno.test("a hybrid that the CPU alone outruns is refused with the figures, unless it is asked for", async () => {
  const plan = await planned({ hybrid: { rates: FAST_CPU } });
  const error = assertThrows(() => checkWorthwhile(plan, {}), OptionError);
  const { hybrid, wasm } = plan.verdict.seconds;
  assert(wasm! < hybrid!);
  for (
    const part of [
      "cannot open the hybrid backend: 2 answers of 128 tokens to prompts of 512 would take",
      "with --backend wasm (decode of 1 ",
      "instead of",
      "waits of 11 ms a step), must be faster, or asked for with --hybrid always; use --backend wasm",
    ]
  ) assert((error as Error).message.includes(part), (error as Error).message);
  checkWorthwhile(plan, { always: true });
});

Deno.test("a hybrid without --gpu-memory, without room or of a dense model is refused", async () => {
  await assertRejects(
    () => planned({ gpuBytes: undefined }),
    OptionError,
    "(--gpu-memory) is missing",
  );
  await assertRejects(
    () => planned({ gpuBytes: 10_000_000 }),
    CapacityError,
    "must be at most the 10000000",
  );
  await assertRejects(
    () => planned({ model: TINY_MODEL }),
    UnsupportedOpError,
    "no routed experts",
  );
});

Deno.test("the workspace that is planned is at least what a model's own buffers take", async () => {
  const sources = [
    await openCheckpoint(TINY_V3),
    ...(Object.keys(MADE_UP_MODELS) as MadeUpName[]).map((name) => madeUpModel(name, "Q8_0")),
  ];
  for (const source of sources) {
    for (const rows of [16, 528]) {
      const backend = new MeasuringBackend();
      await loadModel({ source, backend, maxRows: rows, maxLogitRows: 16 });
      const planned = workspaceBytes(outlineFromTensors(source), {
        rows,
        logitRows: 16,
        context: 512,
      });
      const { workspace } = backend.memory();
      assert(planned > workspace && planned < 5 * workspace + 40e6, `${source.name}, ${rows}`);
    }
    source.close();
  }
});

Deno.test("the CPU is measured with experts of the model's own type and extents", async () => {
  const source = await openCheckpoint(TINY_V3);
  const probe = hostProbeOf(outlineFromTensors(source), { threads: 1, activations: "q16" });
  source.close();
  assertEquals(probe.type, "Q4_K");
  const config = outlineFromTensors(madeUpModel("v2-lite", "Q4_K"));
  assertEquals(
    hostProbeOf(config, { threads: 3, activations: "q8", storage: "F8" }),
    { type: "F8_E4M3", hidden: 2048, intermediate: 1408, topK: 6, threads: 3, activations: "q8" },
  );
  // Rows of 1408 are no whole blocks of a K type, whose rate is measured anyway.
  for (const type of ["Q4_K", "Q8_0"] as const) {
    const shape = { type, hidden: 64, intermediate: 96, topK: 3, threads: 1 } as const;
    const rates = await measureHost({
      ...shape,
      activations: "q16",
      bytes: 1 << 16,
      milliseconds: 5,
    });
    assertEquals(rates.threads, 1);
    assert(rates.bytesPerSecond > 1e6 && rates.operationsPerSecond > 1e6, JSON.stringify(rates));
    assert(rates.roundSeconds >= 0 && rates.roundSeconds < 1, JSON.stringify(rates));
  }
});

Deno.test("a GPU's rates are bytes and operations of what was timed, by its own clock", async () => {
  const backend = createReferenceBackend();
  const submitted: number[] = [];
  // A clock by which each product takes a millisecond.
  const counting: Backend = new Proxy(backend, {
    get(target, name) {
      if (name === "submit") return (plan: { length: number }) => void submitted.push(plan.length);
      const value = Reflect.get(target, name);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const take = () => {
    const times = submitted.splice(0).map((dispatches) => ({
      ...{ label: "product", dispatches, seconds: dispatches * 1e-3, work: null },
    }));
    return Promise.resolve(times);
  };
  const { device, crossingSeconds } = await measureDevice({ backend: counting, take });
  // The first size of each takes long enough.
  assertEquals(device.bytesPerSecond, 256 * 4096 / 32 * 34 / 1e-3);
  assertEquals(device.operationsPerSecond, 2 * 256 * 1024 * 64 / 1e-3);
  assert(Math.abs(device.layerSeconds - 16e-3) < 1e-9);
  assert(crossingSeconds >= 0 && crossingSeconds < 1);
});

Deno.test("a GPU without a clock counts as a known one", async () => {
  const { device } = await measureDevice({ backend: createReferenceBackend(), take: null });
  assertEquals(device, KNOWN_DEVICE);
});
