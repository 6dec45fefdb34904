import { assert, assertEquals, assertThrows } from "@std/assert";
import { CapacityError, UnsupportedOpError } from "../../src/errors.ts";
import { type HybridModel, hybridModelOf, sumOf } from "../../src/experts/hybrid_model.ts";
import { type HybridPlanOptions, planHybrid } from "../../src/experts/hybrid_plan.ts";
import { outlineFromConfig } from "../../src/experts/outline_config.ts";
import { outlineFromTensors } from "../../src/experts/outline_tensors.ts";
import { formatOf } from "../../src/backend/webgpu/weights/formats.ts";
import { rowQuantWords } from "../../src/backend/webgpu/weights/format.ts";
import { MADE_UP_MODELS, madeUpModel } from "../../src/bench/made_up_models.ts";
import { rowBytes, TENSOR_TYPES, type TensorType } from "../../src/quant/types.ts";
import {
  crossingLayers,
  deviceStep,
  hostStep,
  hybridStep,
  type LayerExperts,
  type Rates,
} from "../../src/experts/step_time.ts";
import { Xoshiro128 } from "../../src/sampling/random.ts";

const weights = (bytes: number) => ({
  hostBytes: bytes,
  deviceBytes: bytes,
  parameters: bytes,
});

/** Three layers, the first one dense; experts of 10 bytes. */
const MODEL: HybridModel = {
  name: "toy",
  hiddenSize: 16,
  topK: 2,
  layers: [
    { layer: 0, before: weights(100), beside: weights(300), routed: null },
    {
      layer: 1,
      before: weights(100),
      beside: weights(50),
      routed: { count: 4, each: weights(10) },
    },
    {
      layer: 2,
      before: weights(100),
      beside: weights(50),
      routed: { count: 4, each: weights(10) },
    },
  ],
  embedding: weights(1000),
  head: weights(500),
  cacheBytesPerToken: 6,
};

/** Bound by memory: 100 bytes a second on the GPU, 10 on the CPU. */
const RATES: Rates = {
  device: { bytesPerSecond: 100, operationsPerSecond: 1e9, layerSeconds: 0 },
  host: { threads: 2, bytesPerSecond: 10, operationsPerSecond: 1e9, roundSeconds: 0 },
  crossingSeconds: 0,
};

function placed(...resident: readonly number[][]): Map<number, LayerExperts> {
  const probabilities = [1, 0.5, 0.5, 0];
  return new Map(
    resident.map((ids, i) => [i + 1, { probabilities, resident: new Set(ids) }]),
  );
}

const ONE_ROW = { rows: 1, logitRows: 1, cachedTokens: 0 };

Deno.test("a step's times are those of its bytes, each layer's experts beside each other", () => {
  const experts = placed([0], [1, 2]);
  // Before the first gate 4 + 1 seconds; then 10 bytes of experts take the host a second, in which the GPU
  // does 0.6 s of its own; 1 s of attention; 10 bytes again, and 0.6 s; then 5 s for the head.
  const step = hybridStep(MODEL, { shape: ONE_ROW, rates: RATES, experts });
  assertEquals(step.hostBytes, 10 + 10);
  assertEquals(step.hostSeconds, 2);
  assertEquals(step.deviceBytes, 400 + 150 + 150 + 10 + 10 + 500);
  assertEquals(step.waitSeconds, 5 + 1 + 5);
  assertEquals(step.seconds, 13);
  const host = hostStep(MODEL, { shape: ONE_ROW, rates: RATES, experts });
  assertEquals(host, (400 + 150 + 150 + 20 + 20 + 500) / 10);
  const device = deviceStep(MODEL, { shape: ONE_ROW, rates: RATES, experts, stepsPerWait: 1 });
  assert(Math.abs(device - (400 + 150 + 150 + 20 + 20 + 500) / 100) < 1e-9);
});

Deno.test("what the GPU has left when the host is done delays the next gate", () => {
  const slowDevice = { ...RATES, device: { ...RATES.device, bytesPerSecond: 10 } };
  const experts = placed([0], [1, 2]);
  const step = hybridStep(MODEL, { shape: ONE_ROW, rates: slowDevice, experts });
  // 6 s of the GPU's work beside each second of the host's.
  assertEquals(step.seconds, (400 + 100) / 10 + 1 + 5 + 10 + 1 + 5 + 50);
});

Deno.test("each layer with experts on the CPU waits once, whole layers don't, and a wait has a least time", () => {
  const rates = { ...RATES, crossingSeconds: 2 };
  const seconds = (experts: Map<number, LayerExperts>) =>
    hybridStep(MODEL, { shape: { ...ONE_ROW, logitRows: 0 }, rates, experts }).waitSeconds;
  // 5 s are noticed after 6; 1 s after 2; what is left of nothing after 2.
  assertEquals(seconds(placed([0], [0])), 6 + 2 + 2);
  const second = placed([0], [0, 1, 2, 3]);
  assertEquals(seconds(second), 6 + (1 + 0.5 + 0.2 + 1));
  assertEquals(seconds(placed([0, 1, 2, 3], [0, 1, 2, 3])), 4 + 1 + 0.7 + 1 + 0.7 + 1);
  assertEquals(crossingLayers(placed([0, 1, 2, 3], [0])), 1);
});

Deno.test("each round of the host begins with what a submission takes, the CPU alone has none", () => {
  const rounds = { ...RATES, host: { ...RATES.host, roundSeconds: 3 } };
  const seconds = (rates: Rates, experts: Map<number, LayerExperts>) => {
    const step = { shape: ONE_ROW, rates, experts };
    return [hybridStep(MODEL, step).hostSeconds, hostStep(MODEL, step)];
  };
  const [plain, alone] = seconds(RATES, placed([0], [1, 2]));
  assertEquals(seconds(rounds, placed([0], [1, 2])), [plain + 6, alone]);
  assertEquals(seconds(rounds, placed([0], [0, 1, 2, 3]))[0], 1 + 3);
});

Deno.test("rows that choose the same experts read them once", () => {
  const shape = { rows: 2, logitRows: 0, cachedTokens: 0 };
  const experts = placed([], []);
  // 1 + 0.75 + 0.75 + 0 experts of two rows.
  const step = hybridStep(MODEL, { shape, rates: RATES, experts });
  assertEquals(step.hostBytes, 2 * 25);
  const computing = { ...RATES, host: { ...RATES.host, operationsPerSecond: 1 } };
  const bound = hybridStep(MODEL, { shape, rates: computing, experts });
  assertEquals(bound.hostSeconds, 2 * (2 * 2 * 2 * 10));
});

Deno.test("cached tokens are read by whoever computes attention", () => {
  const shape = { ...ONE_ROW, cachedTokens: 100 };
  const experts = placed([0], [0]);
  const at = (cachedTokens: number) => ({
    shape: { ...shape, cachedTokens },
    rates: RATES,
    experts,
  });
  const close = (is: number, must: number) => assert(Math.abs(is - must) < 1e-9, `${is}, ${must}`);
  close(hybridStep(MODEL, at(100)).deviceBytes - hybridStep(MODEL, at(0)).deviceBytes, 600);
  close(hostStep(MODEL, at(100)) - hostStep(MODEL, at(0)), 60);
});

const OPTIONS: HybridPlanOptions = {
  model: MODEL,
  deviceBytes: 2300 + 40 + 50,
  cacheBytes: 30,
  workspaceBytes: 10,
  rates: RATES,
  slots: 4,
  chunkTokens: 8,
  stepsPerWait: 16,
};

Deno.test("a plan fills what always-needed weights, cache and workspace leave of the GPU", () => {
  const counts = [{ layer: 1, counts: [9, 0, 0, 9] }, { layer: 2, counts: [0, 5, 20, 0] }];
  const plan = planHybrid({ ...OPTIONS, deviceBytes: 2240 + 39, counts });
  assertEquals(plan.device, { budget: 2279, always: 2200, experts: 30, cache: 30, workspace: 10 });
  // The CPU has all of them.
  assertEquals(plan.host, 80);
  assertEquals(plan.placement.layers, [
    { layer: 1, resident: [0, 3] },
    { layer: 2, resident: [2] },
  ]);
  assert(plan.recorded);
  assertEquals(plan.experts.resident, 3);
  assertEquals(plan.experts.all, 8);
  const chosen = 2 * (10 / 22 + 10 / 22) / 4 + 2 * 21 / 29 / 4;
  assert(Math.abs(plan.experts.chosen - chosen) < 0.05, `${plan.experts.chosen}, ${chosen}`);
  assertEquals(plan.crossings, 4);
  assertEquals(plan.movedPerToken, 2 * (2 * 16 * 4 + 2 * 8));
  assertEquals(plan.regimes.map(({ name, rows }) => [name, rows]), [
    ["decode", 1],
    ["decode", 4],
    ["prefill", 8],
  ]);
});

Deno.test("without counts a plan gives equal slots and says so", () => {
  const plan = planHybrid({ ...OPTIONS, deviceBytes: 2240 + 40 });
  assertEquals(plan.recorded, false);
  assertEquals(plan.placement.layers.map(({ resident }) => resident.length), [2, 2]);
  const half = planHybrid({
    ...OPTIONS,
    deviceBytes: 2240 + 40,
    counts: [{ layer: 1, counts: [1, 2, 3, 4] }],
  });
  assertEquals(half.recorded, false);
});

Deno.test("where waits cost much, layers are made whole before experts are chosen by heat", () => {
  const waiting = { ...RATES, crossingSeconds: 100 };
  const counts = [{ layer: 1, counts: [90, 90, 0, 0] }, { layer: 2, counts: [90, 90, 0, 0] }];
  const at = (rates: Rates) => planHybrid({ ...OPTIONS, deviceBytes: 2240 + 40, counts, rates });
  assertEquals(at(RATES).placement.layers.map(({ resident }) => resident.length), [2, 2]);
  const whole = at(waiting);
  assertEquals(whole.placement.layers.map(({ resident }) => resident.length), [4, 0]);
  assertEquals(whole.layers, { routed: 2, whole: 1 });
  assertEquals(whole.crossings, 2);
  assertEquals(whole.host, 40);
});

Deno.test("the verdict is the place where a load takes least, and the GPU alone only where all of it fits", () => {
  const device = (bytesPerSecond: number) => ({
    ...RATES,
    device: { ...RATES.device, bytesPerSecond },
  });
  const verdict = (options: Partial<HybridPlanOptions>) =>
    planHybrid({ ...OPTIONS, deviceBytes: 2240 + 40, ...options }).verdict;
  const hybrid = verdict({ rates: device(100) });
  assertEquals(hybrid.best, "hybrid");
  assertEquals(hybrid.seconds.webgpu, null);
  assertEquals([hybrid.sequences, hybrid.load], [4, { promptTokens: 512, answerTokens: 128 }]);
  assertEquals(verdict({ rates: device(1) }).best, "wasm");
  assertEquals(verdict({ rates: { ...device(100), crossingSeconds: 500 } }).best, "wasm");
  const roomy = verdict({ deviceBytes: 2240 + 80 });
  assertEquals(roomy.best, "webgpu");
  assert(roomy.seconds.webgpu! <= roomy.seconds.hybrid!);
});

Deno.test("a plan's seconds are those of its own rates", () => {
  for (let seed = 0; seed < 100; seed++) {
    const random = new Xoshiro128(seed);
    const slots = 1 + Math.floor(random.next() * 5);
    const options = {
      ...OPTIONS,
      slots,
      deviceBytes: 2240 + Math.floor(random.next() * 80),
      rates: { ...RATES, crossingSeconds: Math.floor(random.next() * 10) },
      load: { promptTokens: 24, answerTokens: 10 },
    };
    const { regimes, verdict } = planHybrid(options);
    const rate = (name: string, rows: number) =>
      regimes.find((regime) => regime.name === name && regime.rows === rows)!.tokensPerSecond;
    for (const place of ["hybrid", "wasm", "webgpu"] as const) {
      const [prefill, decode] = [rate("prefill", 8)[place], rate("decode", slots)[place]];
      if (prefill === null || decode === null) {
        assertEquals(verdict.seconds[place], null);
        continue;
      }
      const seconds = slots * 24 / prefill + 10 * slots / decode;
      assert(Math.abs(seconds / verdict.seconds[place]! - 1) < 1e-9, `seed ${seed}, ${place}`);
    }
  }
});

Deno.test("more memory of a fast GPU never makes a hybrid slower", () => {
  const random = new Xoshiro128(1);
  const counts = [1, 2].map((layer) => ({
    layer,
    counts: Array.from({ length: 4 }, () => Math.floor(random.next() * 50)),
  }));
  for (const crossingSeconds of [0, 3, 50]) {
    let last = Infinity;
    for (let deviceBytes = 2240; deviceBytes <= 2320; deviceBytes += 10) {
      const device = { ...RATES.device, bytesPerSecond: 1e6 };
      const rates = { ...RATES, device, crossingSeconds };
      const { verdict } = planHybrid({ ...OPTIONS, counts, rates, deviceBytes });
      assert(verdict.seconds.hybrid! <= last + 1e-9);
      last = verdict.seconds.hybrid!;
    }
  }
});

Deno.test("what doesn't fit the GPU or the CPU is refused with its sizes", () => {
  assertThrows(
    () => planHybrid({ ...OPTIONS, deviceBytes: 2239 }),
    CapacityError,
    "what every token needs takes 2200 bytes, its cache 30 and activations 10, must be at most the 2239",
  );
  assertThrows(
    () => planHybrid({ ...OPTIONS, deviceBytes: 2240 + 30, hostBytes: 79 }),
    CapacityError,
    "experts of layers that don't fit the GPU as a whole take 80 bytes, must be at most 79",
  );
  assertEquals(planHybrid({ ...OPTIONS, deviceBytes: 2270, hostBytes: 80 }).host, 80);
});

Deno.test("a model's outline has its parts where a hybrid runs them", () => {
  const source = madeUpModel("v2-lite", "Q8_0");
  const outline = outlineFromTensors(source);
  const model = hybridModelOf(outline, { storage: "file", cacheNumberBytes: 2 });
  const all = sumOf([
    model.embedding,
    model.head,
    ...model.layers.flatMap(({ before, beside, routed }) =>
      routed === null
        ? [before, beside]
        : [before, beside, ...Array(routed.count).fill(routed.each)]
    ),
  ]);
  assert(Math.abs(all.hostBytes / source.byteLength - 1) < 1e-6);
  assertEquals(Math.round(all.parameters / 1e8), 157);
  assertEquals(model.layers.filter(({ routed }) => routed !== null).length, 26);
  const each = model.layers[1].routed!.each;
  assertEquals(each.hostBytes, 3 * 1408 * 2048 / 32 * 34);
  assertEquals(each.parameters, 3 * 1408 * 2048);
  assertEquals(model.layers[1].beside.parameters, 3 * 2816 * 2048);
  assertEquals(model.layers[0].beside.parameters, 3 * 10944 * 2048);
  assertEquals(model.cacheBytesPerToken, 27 * 576 * 2);
});

Deno.test("types without a kernel count as what they become, and no type grows more on a GPU than said", () => {
  const fields = {
    ...{ model_type: "olmoe", vocab_size: 100, hidden_size: 256, intermediate_size: 512 },
    ...{ num_hidden_layers: 1, num_attention_heads: 2, num_experts: 4, num_experts_per_tok: 2 },
  };
  const outline = outlineFromConfig(new Map(Object.entries(fields)), { name: "config.json" });
  const values = 3 * 256 * 512;
  for (const type of Object.keys(TENSOR_TYPES) as TensorType[]) {
    const model = hybridModelOf(outline, { storage: type, cacheNumberBytes: 2 });
    const { hostBytes, deviceBytes } = model.layers[0].routed!.each;
    const becomes = TENSOR_TYPES[type].kernel === null ? "Q8_0" : type;
    assertEquals(hostBytes, values / 256 * rowBytes(becomes, 256));
    const format = formatOf(type, { exact: false, cols: 256 });
    const rowWords = rowQuantWords(format, 256) + format.scaleWords(256);
    const exact = values / 256 * rowWords * 4;
    assert(
      deviceBytes >= exact && deviceBytes <= exact * 1.06,
      `${type}: ${deviceBytes}, ${exact}`,
    );
  }
});

Deno.test("a dense model has nothing to put on two sides", () => {
  assert("qwen-1.5b" in MADE_UP_MODELS);
  const outline = outlineFromTensors(madeUpModel("qwen-1.5b", "Q8_0"));
  assertThrows(
    () => hybridModelOf(outline, { storage: "file", cacheNumberBytes: 2 }),
    UnsupportedOpError,
    "has no routed experts, must be a mixture",
  );
});
