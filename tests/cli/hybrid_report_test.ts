import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { formatHybridPlan } from "../../src/cli/hybrid_report.ts";
import { writeNotices } from "../../src/cli/notices.ts";
import { main } from "../../src/cli/plan.ts";
import { madeUpModel } from "../../src/bench/made_up_models.ts";
import { hybridModelOf } from "../../src/experts/hybrid_model.ts";
import { planHybrid } from "../../src/experts/hybrid_plan.ts";
import { outlineFromTensors } from "../../src/experts/outline_tensors.ts";
import { formatTrace } from "../../src/experts/trace.ts";
import { randomTrace } from "../experts/_traces.ts";
import { recordedIo } from "./_io.ts";
import { TINY_V3 } from "../support/fixtures.ts";

/** DeepSeek-V2-Lite on a GPU with half its size, beside a CPU with 16 threads. */
function planOf(options: { gigabytes: number; crossingSeconds: number }) {
  return planHybrid({
    model: hybridModelOf(outlineFromTensors(madeUpModel("v2-lite", "Q8_0")), {
      storage: "file",
      cacheNumberBytes: 2,
    }),
    deviceBytes: options.gigabytes * 1e9,
    cacheBytes: 1e9,
    workspaceBytes: 1e8,
    rates: {
      device: { bytesPerSecond: 2.5e12, operationsPerSecond: 30e12, layerSeconds: 190e-6 },
      host: { threads: 16, bytesPerSecond: 40e9, operationsPerSecond: 300e9, roundSeconds: 0 },
      crossingSeconds: options.crossingSeconds,
    },
    slots: 16,
    chunkTokens: 512,
    stepsPerWait: 32,
  });
}

Deno.test("a hybrid plan's table says what lies where, what crosses, and how fast each place would be", () => {
  const plan = planOf({ gigabytes: 8, crossingSeconds: 0.011 });
  const lines = formatHybridPlan(plan).split("\n");
  const { resident, all, chosen } = plan.experts;
  assertEquals(
    lines[0],
    `${resident} of ${all} routed experts on the GPU, ${Math.round(chosen * 100)} % of choices ` +
      `if all are chosen as often; ${plan.layers.whole} of 26 layers whole`,
  );
  const row = (name: string) =>
    lines.find((line) => line.startsWith(name))!.slice(name.length).trim().split(/ {2,}/);
  assertEquals(row("cache"), ["1.0 GB", "-"]);
  assertEquals(row("routed experts")[1], `${(plan.host / 1e9).toFixed(1)} GB`);
  assertEquals(row("tokens/s expected"), ["hybrid", "wasm", "webgpu"]);
  const [, decode] = plan.regimes;
  assertEquals(row("16 side by side"), [
    String(Number(decode.tokensPerSecond.hybrid!.toPrecision(3))),
    String(Number(decode.tokensPerSecond.wasm!.toPrecision(3))),
    "too large",
  ]);
  const text = lines.join("\n");
  assertStringIncludes(
    text,
    `a step crosses ${plan.crossings} times, half of them with a wait of 11 ms`,
  );
  assertStringIncludes(text, "hybrid is the fastest, but not in: 1 side by side");
  assertStringIncludes(
    text,
    "2500 GB/s, 30 TFLOP/s, 190 us a layer at least; 16 threads of 40 GB/s",
  );
});

Deno.test("a plan with all experts on the GPU never crosses, and the GPU alone is as good", () => {
  const text = formatHybridPlan(planOf({ gigabytes: 20, crossingSeconds: 0.011 }));
  assertStringIncludes(text, "a step never crosses to the CPU");
  assertStringIncludes(text, "webgpu is the fastest");
});

Deno.test("a plan is among what loading had to say", () => {
  const io = recordedIo();
  const hybrid = planOf({ gigabytes: 8, crossingSeconds: 0.001 });
  writeNotices(io.stderr, { conversions: [], warnings: ["first"], hybrid });
  assert(io.err().startsWith(`first\n${hybrid.experts.resident} of 1664 routed experts`));
});

Deno.test("plan --gpu-memory plans a file for a GPU and the CPU, with recorded routing and its own slots", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const trace = randomTrace({
      ...{ seed: 1, layers: 5, experts: 24, topK: 4, documents: 2, decodeSteps: 9, prefillRows: 9 },
    });
    await Deno.writeTextFile(`${folder}/trace`, formatTrace(trace));
    const flags = ["--config", TINY_V3, "--gpu-memory", "60MB", "--slots", "3", "--threads", "1"];
    const given = ["--routing", `${folder}/trace`, "--bandwidth", "7", "--crossing", "2.5"];
    const io = recordedIo();
    assertEquals(await main([...flags, ...given, "--json"], io), 0);
    const { storages, hybrids: [plan, ...others] } = JSON.parse(io.out());
    assertEquals(storages[0].storage, "file");
    assertEquals(others, []);
    assertEquals([plan.storage, plan.recorded, plan.device.budget], ["file", true, 60e6]);
    assertEquals(plan.rates.host.bytesPerSecond, 7e9);
    assertEquals(plan.rates.crossingSeconds, 0.0025);
    assertEquals(plan.regimes.map(({ rows }: { rows: number }) => rows), [1, 3, 512]);
    const text = recordedIo();
    await main([...flags, ...given], text);
    assertStringIncludes(text.out(), "On a GPU and the CPU, weights as file (");
    assertStringIncludes(text.out(), "of choices by recorded routing");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
