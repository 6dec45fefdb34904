import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { createHybridBackend } from "../../src/backend/hybrid/mod.ts";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import type { KernelTime } from "../../src/backend/webgpu/profiler.ts";
import { workOf } from "../../src/backend/webgpu/work.ts";
import { formatKernels, kernelFigures } from "../../src/bench/kernel_times.ts";
import { formatSteps, type ModelSteps, SOFTWARE_WARNING } from "../../src/bench/step_report.ts";
import { measureSteps } from "../../src/bench/steps.ts";
import { createWasmBackend } from "../../src/backend/wasm/mod.ts";
import { main } from "../../src/cli/bench.ts";
import { OptionError } from "../../src/errors.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { TINY_MODEL } from "../cli/_io.ts";
import { GPU_SKIPPED, SKIP_NOTE } from "../support/gpu.ts";
import { TINY_V3 } from "../support/fixtures.ts";

const DENSE = { steps: 2, rows: 4, routed: { layers: 0, topK: 0 } };

Deno.test("a product's work is told by its planes, its outputs and its rows", () => {
  const buffer = {} as GPUBuffer;
  const plane = (name: string, size: number) => ({ name, buffer, size });
  const dispatch = {
    label: "matrixVector Q8_0 64+16x128",
    bindings: [
      ...[plane("w00_q", 64 * 128), plane("w00_s", 64 * 8)],
      ...[plane("w10_q", 16 * 128), plane("w10_s", 16 * 8)],
      ...[{ name: "bias1", buffer }, { name: "out0", buffer, write: true }],
      { name: "x", buffer },
    ],
    params: { rows: 3, rows0: 64, rows1: 16 },
  };
  assertEquals(workOf(dispatch), { bytes: 80 * 136, operations: 2 * 3 * 80 * 128 });
  // Gate and up of one output.
  const gated = {
    label: "matrixMatrix Q4_K 256x64",
    bindings: [plane("w00_q", 100), plane("w01_q", 100), { name: "out0", buffer, write: true }],
    params: { rows: 5 },
  };
  assertEquals(workOf(gated), { bytes: 200, operations: 2 * 5 * 2 * 256 * 64 });
  assertEquals(workOf({ ...gated, label: "rmsNorm" }), null);
  assertEquals(workOf({ ...gated, label: "experts down, pairs Q4_K 256x64" }), null);
});

Deno.test("kernels' figures are by step, the longest first, with rates where work is known", () => {
  const times: KernelTime[] = [
    { label: "rmsNorm", dispatches: 8, seconds: 1e-3, work: null },
    { label: "matrixVector", dispatches: 4, seconds: 3e-3, work: { bytes: 6e6, operations: 9e6 } },
  ];
  const { stepSeconds, kernels: [first, second] } = kernelFigures(times, DENSE);
  assertEquals(stepSeconds, 2e-3);
  assertEquals(first, {
    label: "matrixVector",
    dispatches: 2,
    dispatchSeconds: 3e-3 / 4,
    stepSeconds: 1.5e-3,
    share: 0.75,
    bytesPerSecond: 2e9,
    operationsPerSecond: 3e9,
  });
  assertEquals([second.bytesPerSecond, second.operationsPerSecond], [null, null]);
  const [, line, last] = formatKernels(kernelFigures(times, DENSE)).split("\n");
  assertMatch(line, /^matrixVector +2 +750 +1\.50 +75 % +2\.00 +0\.00300$/);
  assertMatch(last, /^rmsNorm .* 25 % +- +-$/);
});

Deno.test("experts' work is that of the chosen ones, and their bytes are known for one row", () => {
  const time: KernelTime = {
    label: "experts gate and up, pairs Q8_0 96x64",
    dispatches: 6,
    seconds: 1,
    work: null,
  };
  const routed = { layers: 3, topK: 2 };
  const one = kernelFigures([time], { steps: 2, rows: 1, routed }).kernels[0];
  assertEquals(one.operationsPerSecond, 2 * 6 * 2 * 2 * 96 * 64);
  assertEquals(one.bytesPerSecond, 6 * 2 * 2 * 96 * (64 / 32 * 34));
  // A layer's rows in two parts are no more of them.
  const halves = { ...time, dispatches: 12 };
  const many = kernelFigures([halves], { steps: 2, rows: 10, routed }).kernels[0];
  assertEquals(many.operationsPerSecond, 10 * 2 * 6 * 2 * 2 * 96 * 64);
  assertEquals(many.bytesPerSecond, null);
  const down = { ...time, label: "experts down, tiles Q8_0 64x96" };
  assertEquals(
    kernelFigures([down], { steps: 2, rows: 1, routed }).kernels[0].operationsPerSecond,
    2 * 6 * 2 * 64 * 96,
  );
});

for (const [name, path] of [["a dense model", TINY_MODEL], ["a mixture", TINY_V3]]) {
  Deno.test(`bare steps of ${name} are measured on any backend, and its kernels where there is a clock`, async () => {
    const source = await openCheckpoint(path);
    const backend = path === TINY_V3
      ? await createWasmBackend({ threads: 1, activations: "q8" })
      : createReferenceBackend();
    const active: boolean[] = [];
    const clock = {
      active: true,
      take() {
        active.push(this.active);
        return Promise.resolve([{ label: "all", dispatches: 3, seconds: 1, work: null }]);
      },
    };
    const options = { prefill: [5, 70], sequences: [1, 3], decode: 2, runs: 2 };
    const { figures, memory, load } = await measureSteps({ source, backend, clock, ...options });
    source.close();
    assertEquals(figures.map(({ name, count }) => [name, count]), [
      ...[["prefill", 5], ["prefill", 70]],
      ...[["decode", 1], ["decode", 3]],
    ]);
    for (const { rate, kernels } of figures) {
      assert(rate.median > 0 && rate.runs === 2);
      assertEquals(kernels?.kernels[0].label, "all");
    }
    assertEquals(figures.map(({ kernels }) => kernels!.steps), [1, 1, 2, 2]);
    // Taken before and after each run that is timed by kernel, never while the clock runs.
    assertEquals(active, Array(8).fill(false));
    assert(memory.weights > 0 && memory.kv > 0 && load.bytes === source.byteLength);
  });
}

Deno.test("a hybrid's steps are measured with what they cross", async () => {
  const source = await openCheckpoint(TINY_V3);
  const host = await createWasmBackend({ threads: 1, activations: "q8" });
  const device = await createWasmBackend({ threads: 1, activations: "q8" });
  const layers = [1, 2, 3].map((layer) => ({ layer, resident: [...Array(24).keys()] }))
    .concat({ layer: 4, resident: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] });
  const backend = createHybridBackend({ device, host, placement: { layers } });
  const options = { prefill: [6], sequences: [2], decode: 3, runs: 2 };
  const traffic = () => backend.traffic();
  const { figures } = await measureSteps({ source, backend, traffic, ...options });
  source.close();
  for (const { traffic } of figures) {
    // Two of five layers have experts on the host: each reads, and mostly hands something back.
    assert(traffic!.crossings > 2 && traffic!.crossings <= 4, JSON.stringify(traffic));
    assert(traffic!.onDevice > 0 && traffic!.onDevice < 1);
    assert(traffic!.hostSeconds > 0 && traffic!.waitSeconds >= 0);
  }
});

Deno.test("a report names the GPU, says what a software adapter's speeds mean, and what was expected", () => {
  const rate = { median: 120, min: 100, max: 130, runs: 3 };
  const steps: ModelSteps = {
    ...{ model: "toy", backend: "hybrid", activations: "q16", threads: 2 },
    ...{ parameters: 2e9, activeParameters: 1e9 },
    load: { bytes: 3e9, seconds: 2 },
    memory: { weights: 3e9, kv: 1e9, workspace: 1e8 },
    adapter: { name: "llvmpipe", software: true },
    figures: [
      {
        ...{ name: "decode", count: 4, rate },
        traffic: { crossings: 6, waitSeconds: 0.04, hostSeconds: 0.5, onDevice: 0.25 },
      },
      { name: "prefill", count: 9, rate },
    ],
    plan: {
      regimes: [{ name: "decode", rows: 4, tokensPerSecond: { hybrid: 100 } }],
    } as unknown as ModelSteps["plan"],
  };
  const lines = formatSteps([steps]).split("\n");
  assertStringIncludes(lines[0], "hybrid on llvmpipe, q16 activations, 2 threads; 3.00 GB loaded");
  assertEquals(lines[1], SOFTWARE_WARNING);
  assertMatch(lines[3], /^4 sequences +120 \(100-130\) +100 +1\.20$/);
  assertMatch(lines[4], /^prompt of 9 +120 \(100-130\) +- +-$/);
  assertEquals(
    lines[5],
    "4 sequences: a step crosses 6.00 times, waits 40.0 ms for the GPU, computes 500 ms on the CPU; " +
      "25 % of choices on the GPU in layers that lie on both",
  );
  const hard = formatSteps([{ ...steps, adapter: { name: "H200", software: false } }]);
  assert(!hard.includes(SOFTWARE_WARNING));
});

Deno.test("bench refuses flags that don't go with a GPU or with made-up models", async () => {
  const refused = [
    [["--backend", "webgpu", "--serving"], "--serving is given with --backend webgpu"],
    [["--backend", "hybrid", "--paging"], "--paging is given with --backend hybrid"],
    [["--made-up", "v2-lite", "--busy"], "--busy is given with --made-up"],
    [["--made-up", "v2-lite", "--model", TINY_MODEL], "must be one of them"],
    [["--made-up", "v2-lite", "--peers"], "other engines take files"],
    [["--made-up", "v2-lite:Q2_K"], "must be qwen-1.5b or v2-lite with Q8_0 or Q4_K"],
    [["--made-up", "v2-lite:Q8_0:x"], "must be qwen-1.5b"],
    [["--backend", "hybrid", "--kernels"], "--kernels is given with --backend hybrid"],
    [["--backend", "cuda"], "must be one of wasm, webgpu, hybrid"],
  ] as const;
  for (const [args, message] of refused) {
    await assertRejects(() => main([...args]), OptionError, message);
  }
});

Deno.test({
  name: `bench --backend webgpu times each kernel by the GPU's own clock${SKIP_NOTE}`,
  ignore: GPU_SKIPPED !== undefined,
  // The device's threads outlive it a moment.
  sanitizeResources: false,
  fn: async () => {
    let out = "";
    const stdout = {
      writeSync(bytes: Uint8Array) {
        out += new TextDecoder().decode(bytes);
        return bytes.length;
      },
    };
    const flags = ["--prefill", "3", "--decode", "2", "--runs", "1", "--json"];
    await main(["--backend", "webgpu", "--model", TINY_MODEL, ...flags], {
      stdout,
      stderr: stdout,
    });
    const { steps: [{ adapter, figures }] } = JSON.parse(out.trim().split("\n").at(-1)!);
    assert(adapter.name.length > 0);
    for (const { rate, kernels } of figures) {
      assert(rate.median > 0);
      const products = kernels.kernels.filter(({ label }: { label: string }) =>
        label.startsWith("matrixVector")
      );
      assert(products.length > 0);
      for (const product of products) {
        assert(product.bytesPerSecond > 0 && product.operationsPerSecond > 0, product.label);
      }
      const shares = kernels.kernels.map(({ share }: { share: number }) => share);
      assert(Math.abs(shares.reduce((sum: number, share: number) => sum + share, 0) - 1) < 1e-6);
    }
  },
});
