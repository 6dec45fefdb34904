import { assert, assertEquals, assertRejects } from "@std/assert";
import { createHybridBackend } from "../../src/backend/hybrid/mod.ts";
import type { HybridPlacement } from "../../src/backend/hybrid/placement.ts";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { LocalEngine } from "../../src/engine/local_engine.ts";
import { openEngine } from "../../src/engine/open_engine.ts";
import { openLocalEngine } from "../../src/engine/open_local_engine.ts";
import { Rebalancer } from "../../src/engine/rebalancer.ts";
import { StepRunner } from "../../src/engine/step_runner.ts";
import type { Engine, EngineOptions } from "../../src/engine/types.ts";
import { OptionError } from "../../src/errors.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { loadModel } from "../../src/model/registry.ts";
import { NEUTRAL_SAMPLING } from "../../src/sampling/types.ts";
import { GPU_SKIPPED, SKIP_NOTE } from "../support/gpu.ts";
import { TINY_V3 } from "../support/fixtures.ts";

const PROMPT = [1, 50, 700, 12, 99, 1234, 77];

async function answer(engine: Engine, maxTokens: number, prompt = PROMPT): Promise<number[]> {
  const tokens: number[] = [];
  const request = { tokens: prompt, sampling: NEUTRAL_SAMPLING, maxTokens, stopTokens: [] };
  for await (const event of engine.generate(request)) {
    if (event.type === "token") tokens.push(event.token);
  }
  return tokens;
}

Deno.test("answers go on as they were while experts move to the device, and the moves follow what is chosen", async () => {
  const plain = await openLocalEngine({
    ...{ model: TINY_V3, backend: "reference", activations: "f32", threads: 1 },
    ...{ slots: 1, chunkTokens: 16, contextLength: 128 },
  });
  const expected = await answer(plain, 40);
  const { layers: loads } = await plain.routingStats();
  await plain.close();

  // The experts that were chosen least.
  const coldest = (load: readonly number[]) =>
    [...load.keys()].sort((a, b) => load[a] - load[b] || a - b).slice(0, 6);
  const placement: HybridPlacement = {
    layers: loads.map(({ layer, load }) => ({ layer, resident: coldest(load) })),
  };
  const backend = createHybridBackend({
    device: createReferenceBackend(),
    host: createReferenceBackend(),
    placement,
  });
  const source = await openCheckpoint(TINY_V3);
  const model = await loadModel({ source, backend, maxRows: 17, maxLogitRows: 1 });
  const shape = { slots: 1, maxRows: 17, pages: 4, contextLength: 128, kvType: "f16" } as const;
  const runner = new StepRunner({ backend, model, ...shape });
  const layers = model.routedLayers.map(({ layer, experts, topK }) => ({ layer, experts, topK }));
  const rebalancer = new Rebalancer({ backend, layers, roundTokens: 8, roundMoves: 4 });
  const engine = new LocalEngine({
    info: { ...plain.info, backend: "hybrid" },
    ...{ runner, chunkTokens: 16, mixedTokens: 16, maxRows: 17, logitRows: 1, pages: 4 },
    rootOf: () => "root",
    onRouting: (routing, rows) => rebalancer.add(routing, rows),
  });
  assertEquals(await answer(engine, 40), expected);
  await rebalancer.settled();
  const share = ({ layers }: HybridPlacement) =>
    layers.reduce((sum, { layer, resident }) => {
      const { load } = loads.find((other) => other.layer === layer)!;
      return sum + resident.reduce((part, id) => part + load[id], 0);
    }, 0);
  assert(backend.traffic().moves >= 8, `${backend.traffic().moves} moves`);
  assert(share(backend.placement()) > 2 * share(placement) + 20);
  await engine.close();
  source.close();
});

const OPTIONS: EngineOptions = {
  ...{ model: TINY_V3, backend: "hybrid", activations: "q16", threads: 1, slots: 1 },
  ...{ chunkTokens: 16, contextLength: 128 },
};

Deno.test("a hybrid engine wants to know the GPU's memory before anything else", async () => {
  await assertRejects(
    () => openLocalEngine(OPTIONS),
    OptionError,
    "(--gpu-memory) is missing, must be the size",
  );
});

Deno.test({
  name:
    `a hybrid engine on a GPU answers as the CPU alone, says what was planned, and is refused where it is slower${SKIP_NOTE}`,
  ignore: GPU_SKIPPED !== undefined,
  // A device's threads outlive it a moment.
  sanitizeResources: false,
  sanitizeOps: false,
  fn: async () => {
    const wasm = await openEngine({ ...OPTIONS, backend: "wasm", activations: "f32" });
    const expected = await answer(wasm, 6);
    await wasm.close();
    const rates = {
      device: { bytesPerSecond: 1e12, operationsPerSecond: 1e13, layerSeconds: 1e-5 },
      host: { threads: 1, bytesPerSecond: 1e8, operationsPerSecond: 1e9, roundSeconds: 0 },
      crossingSeconds: 1e-4,
    };
    const options = { ...OPTIONS, activations: "f32", gpuBytes: 60_000_000 } as const;
    const engine = await openEngine({ ...options, hybrid: { rates } });
    const { backend, adapter, hybrid, threads, memory } = engine.info;
    assertEquals([backend, threads], ["hybrid", 1]);
    assert(adapter !== undefined && adapter !== "");
    assert(hybrid!.experts.resident > 0 && hybrid!.experts.resident < hybrid!.experts.all);
    assert(memory.weights > 0);
    assertEquals(await answer(engine, 6), expected);
    await engine.close();
    const slow = { ...rates, crossingSeconds: 1 };
    await assertRejects(
      () => openEngine({ ...options, hybrid: { rates: slow } }),
      OptionError,
      "use --backend wasm",
    );
  },
});

/** How many times this process has the model open. */
function openModels(): number {
  const paths = Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => {
    try {
      return Deno.readLinkSync(`/proc/self/fd/${name}`);
    } catch {
      // The folder's own, closed again.
      return "";
    }
  });
  return paths.filter((path) => path === Deno.realPathSync(TINY_V3)).length;
}

const notLinux = Deno.build.os === "linux" ? "" : " (skipped: open files are listed on Linux only)";

Deno.test({
  name:
    `a hybrid's file stays open for the experts that move, until the engine closes${SKIP_NOTE}${notLinux}`,
  ignore: GPU_SKIPPED !== undefined || notLinux !== "",
  sanitizeResources: false,
  sanitizeOps: false,
  fn: async () => {
    const before = openModels();
    const engine = await openLocalEngine({
      ...OPTIONS,
      gpuBytes: 60_000_000,
      hybrid: { placement: { layers: [{ layer: 1, resident: [0] }] } },
    });
    assertEquals(openModels(), before + 1);
    await engine.close();
    assertEquals(openModels(), before);
  },
});
