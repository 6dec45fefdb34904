/**
 * Decode and prefill of made-up models of well-known shapes on the GPU, steps alone: no HTTP, no text.
 *
 *     deno run -A src/bench/webgpu_models.ts --model qwen-1.5b,v2-lite --type Q8_0 --streams 1,64 --profile
 */

import { parseArgs } from "node:util";
import { createWebGpuBackend } from "../backend/webgpu/mod.ts";
import { Profiler } from "../backend/webgpu/profiler.ts";
import { BURST_TOKENS } from "../engine/burst.ts";
import { CHOSEN_THERE, type Step, type StepRow } from "../engine/schedule.ts";
import { StepRunner } from "../engine/step_runner.ts";
import { pagesFor } from "../engine/pages.ts";
import { loadModel } from "../model/registry.ts";
import { MADE_UP_MODELS, madeUpModel, type MadeUpName, type MadeUpType } from "./made_up_models.ts";
import { table } from "./report.ts";
import { formatSummary, summarize } from "./statistics.ts";

const PROMPT = 128;
const RUNS = 5;

const { values } = parseArgs({
  options: {
    model: { type: "string", default: Object.keys(MADE_UP_MODELS).join(",") },
    type: { type: "string", default: "Q8_0" },
    streams: { type: "string", default: "1,64" },
    prefill: { type: "string", default: "2048" },
    profile: { type: "boolean", default: false },
  },
});

for (const name of values.model.split(",")) {
  await measure(name as MadeUpName, {
    type: values.type as MadeUpType,
    streams: values.streams.split(",").map(Number),
    prefill: Number(values.prefill),
  });
}
Deno.exit(0);

async function measure(
  name: MadeUpName,
  { type, streams, prefill }: { type: MadeUpType; streams: readonly number[]; prefill: number },
): Promise<void> {
  const source = madeUpModel(name, type);
  const slots = Math.max(...streams);
  const contextLength = Math.max(prefill, PROMPT + (RUNS + 2) * BURST_TOKENS);
  const maxRows = Math.max(prefill, slots);
  const profiler = values.profile ? new Profiler() : undefined;
  const backend = await createWebGpuBackend({ profiler });
  const start = performance.now();
  const model = await loadModel({ source, backend, maxRows, maxLogitRows: slots });
  // Uploads are queued: nothing is there before something is read behind them.
  await backend.read(model.logits, { rows: 1 });
  const seconds = (performance.now() - start) / 1000;
  const pages = Math.max(pagesFor(prefill), slots * pagesFor(PROMPT + (RUNS + 2) * BURST_TOKENS));
  const runner = new StepRunner({
    ...{ backend, model, slots, maxRows, pages, contextLength },
    kvType: "f16",
  });
  const gigabytes = source.byteLength / 1e9;
  console.log(
    `\n${name} ${type}: ${(model.parameters / 1e9).toFixed(1)} B parameters, ` +
      `${(model.activeParameters / 1e9).toFixed(1)} B active; ${backend.numerics}; ` +
      `loaded ${gigabytes.toFixed(1)} GB in ${seconds.toFixed(1)} s ` +
      `(${(gigabytes / seconds).toFixed(2)} GB/s)`,
  );

  const timed = async (body: () => Promise<unknown>): Promise<number> => {
    const before = performance.now();
    await body();
    return (performance.now() - before) / 1000;
  };
  const token = (i: number) => (i * 7919) % model.config.vocabSize;
  const promptRows = (slot: number, count: number): StepRow[] =>
    Array.from({ length: count }, (_, position) => ({
      ...{ sequence: slot, slot, position, token: token(slot * 31 + position) },
      wantsLogits: position === count - 1,
    }));
  const step = (rows: StepRow[], slotPages: Step["slotPages"] = []): Step => ({
    ...{ rows, slotPages, copies: [], restores: [], started: [] },
  });

  const all = [{
    sequence: 0,
    slot: 0,
    pages: Int32Array.from({ length: pagesFor(prefill) }, (_, i) => i),
  }];
  const prefills: number[] = [];
  for (let run = -1; run < RUNS; run++) {
    const took = await timed(() => runner.run(step(promptRows(0, prefill), all)));
    if (run >= 0) prefills.push(prefill / took);
  }
  console.log(`prefill of ${prefill}: ${formatSummary(summarize(prefills)!)} tokens/s`);
  await report(profiler, 1 + RUNS);

  for (const count of streams) {
    const each = pagesFor(PROMPT + (RUNS + 2) * BURST_TOKENS);
    for (let slot = 0; slot < count; slot++) {
      const own = Int32Array.from({ length: each }, (_, i) => slot * each + i);
      await runner.run(step(promptRows(slot, PROMPT), [{ sequence: slot, slot, pages: own }]));
    }
    await profiler?.take();
    const rates: number[] = [];
    for (let run = -1; run < RUNS; run++) {
      const first = PROMPT + (run + 1) * BURST_TOKENS;
      const rows = Array.from(
        { length: count },
        (_, slot) =>
          Array.from({ length: BURST_TOKENS }, (_, i): StepRow => ({
            ...{ sequence: slot, slot, position: first + i },
            ...{ token: i === 0 ? token(slot) : CHOSEN_THERE, wantsLogits: true },
          })),
      ).flat();
      const took = await timed(() => runner.choose(step(rows)));
      if (run >= 0) rates.push(count * BURST_TOKENS / took);
    }
    console.log(
      `decode of ${count} after ${PROMPT}: ${formatSummary(summarize(rates)!)} tokens/s`,
    );
    await report(profiler, (1 + RUNS) * BURST_TOKENS);
  }
  runner.close();
}

/** Prints what the kernels of a step have taken. */
async function report(profiler: Profiler | undefined, steps: number): Promise<void> {
  if (profiler === undefined) return;
  const times = await profiler.take();
  const all = times.reduce((sum, { seconds }) => sum + seconds, 0);
  const rows = times.map(({ label, dispatches, seconds }) => [
    label,
    `${dispatches / steps}`,
    `${(seconds / dispatches * 1e6).toFixed(1)} us`,
    `${(seconds / steps * 1e3).toFixed(3)} ms`,
    `${(seconds / all * 100).toFixed(0)} %`,
  ]);
  console.log(table([["kernel", "a step", "each", "in all", "share"], ...rows]).join("\n"));
}
