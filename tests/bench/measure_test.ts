import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { BenchEngine } from "../../src/bench/engines.ts";
import { type Driver, measure, type StartEngine } from "../../src/bench/measure.ts";
import { interpret, type ThreadReport } from "../../src/bench/report.ts";
import { formatReport, table } from "../../src/bench/report.ts";

const WORKLOAD = {
  vocabSize: 512,
  contextLength: 256,
  fileBytes: 4e6,
  parameters: 40e6,
  activeParameters: 12.5e6,
  bytesPerToken: 3e6,
  macsPerToken: 1e6,
  outputMacs: 8e6,
};

/** An engine that must not be started as a process. */
function engine(name: string, kind: BenchEngine["kind"]): BenchEngine {
  return {
    name,
    kind,
    command: () => {
      throw new Error(`${name} is started in this test itself`);
    },
  };
}

/** Drivers that answer at once with given times, and write down who was asked for what. */
function fakeStart(
  secondsPerToken: Record<string, number>,
  { breaksAfter = {} }: { breaksAfter?: Record<string, number> } = {},
) {
  const asked: string[] = [];
  const closed: string[] = [];
  const start: StartEngine = ({ name }, threads) => {
    if (!(name in secondsPerToken)) return Promise.reject(new Error(`${name} is not here`));
    const seconds = secondsPerToken[name] / threads;
    let requests = 0;
    const driver: Driver = {
      run({ prompt, generate }) {
        asked.push(`${name} ${prompt.length}+${generate}`);
        if (++requests > breaksAfter[name]) return Promise.reject(new Error(`${name} broke`));
        const prefillSeconds = prompt.length * seconds / 10;
        return Promise.resolve({
          promptTokens: prompt.length,
          prefillSeconds,
          firstSeconds: prefillSeconds + 0.001,
          decodeTokens: generate - 1,
          decodeSeconds: (generate - 1) * seconds,
        });
      },
      cpuSeconds: () => 0,
      peakBytes: () => 1e6 * name.length,
      close: () => Promise.resolve(void closed.push(name)),
    };
    const ready = { loadSeconds: 0.5, version: `${name} 1.0` };
    return Promise.resolve({ driver, ready, startSeconds: 0.75 });
  };
  return { asked, closed, start };
}

const OPTIONS = {
  engines: [engine("ours", "own"), engine("theirs", "peer")],
  threads: 1,
  workload: WORKLOAD,
  prefill: [16, 32],
  decode: 4,
  runs: 2,
  busy: false,
  probeBytes: 1 << 20,
  systemCpu: () => 0,
};

Deno.test("engines take turns, warm up uncounted, and are closed", async () => {
  const { asked, closed, start } = fakeStart({ ours: 0.01, theirs: 0.02 });
  const figures = await measure({ ...OPTIONS, start });
  const round = ["ours 16+5", "theirs 16+5", "ours 32+1", "theirs 32+1"];
  assertEquals(asked, [
    ...["ours 16+1", "theirs 16+1", "ours 16+4", "theirs 16+4"],
    ...[...round, ...round],
  ]);
  assertEquals(closed, ["ours", "theirs"]);
  const [ours] = figures.engines;
  assertEquals([ours.engine, ours.version, ours.loadSeconds], ["ours", "ours 1.0", 0.5]);
  assertEquals([ours.decode?.runs, ours.prefill[16]?.runs, ours.prefill[32]?.runs], [2, 2, 2]);
  assertEquals(Math.round(ours.decode!.median), 100);
  assertEquals(Math.round(ours.prefill[32]!.median), 1000);
  assertEquals(ours.firstTokenSeconds?.median, 0.017);
  assertEquals(ours.coldStartSeconds, 0.75 + 0.017);
  assertEquals(figures.bandwidth?.runs, 2);
});

Deno.test("an engine that cannot start or breaks is named, and the others go on", async () => {
  const engines = [engine("absent", "peer"), ...OPTIONS.engines];
  const { closed, start } = fakeStart({ ours: 0.01, theirs: 0.02 }, { breaksAfter: { theirs: 3 } });
  const figures = await measure({ ...OPTIONS, engines, start });
  assertEquals(figures.failed, [
    { name: "absent", reason: "absent is not here" },
    { name: "theirs", reason: "theirs broke" },
  ]);
  assertEquals(figures.engines.map(({ engine }) => engine), ["ours"]);
  assertEquals(figures.engines[0].decode?.runs, 2);
  assertEquals(closed, ["theirs", "ours"]);
});

Deno.test("a long prompt is left out for an engine that would take minutes for it", async () => {
  const { asked, start } = fakeStart({ ours: 0.01, theirs: 20 });
  const figures = await measure({ ...OPTIONS, runs: 1, start });
  assert(!asked.includes("theirs 32+1"));
  assertEquals(figures.engines[1].prefill[32], undefined);
  const [ratios] = interpret(figures, { workload: WORKLOAD }).ratios;
  assertEquals(ratios.prefill[32], undefined);
  assertEquals(Math.round(ratios.prefill[16]!), 2000);
});

Deno.test("a measurement beside other processes is repeated, and the quietest try counts", async () => {
  const { asked, start } = fakeStart({ ours: 0.01 });
  // Others use ten cores during the first try of the round and none from then on.
  let calls = 0;
  const systemCpu = () => calls++ === 0 ? 0 : 10;
  const engines = [engine("ours", "own")];
  const figures = await measure({ ...OPTIONS, engines, prefill: [16], runs: 1, start, systemCpu });
  assertEquals(asked, ["ours 16+1", "ours 16+4", "ours 16+5", "ours 16+5"]);
  assertEquals(figures.engines[0].foreignCores, { median: 0, min: 0, max: 0, runs: 1 });
  assertEquals(figures.engines[0].decode?.runs, 1);
});

Deno.test("a measurement that stays disturbed counts after four tries, with what disturbed it", async () => {
  const { asked, start } = fakeStart({ ours: 0.01 });
  let seconds = 0;
  const systemCpu = () => seconds++;
  const engines = [engine("ours", "own")];
  const figures = await measure({ ...OPTIONS, engines, prefill: [16], runs: 1, start, systemCpu });
  assertEquals(asked.length, 2 + 4);
  assert(figures.engines[0].foreignCores!.median > 1);
});

Deno.test("a report divides by the ceilings of its run and by the peers", async () => {
  const { start } = fakeStart({ ours: 0.01, theirs: 0.02 });
  const measured = await measure({ ...OPTIONS, start });
  const once = (median: number) => ({ median, min: median, max: median, runs: 1 });
  const figures = { ...measured, bandwidth: once(3e9), multiplyAdds: once(3e9) };
  const result: ThreadReport = interpret(figures, { workload: WORKLOAD });
  const [ours] = result.engines;
  assertEquals(Math.round(ours.decodeBytesPerSecond! / 1e6), 300);
  assertEquals(ours.bandwidthShare!.toFixed(3), "0.100");
  assertEquals(ours.peakShare, 1);
  // 1000 tokens a second, each 1e6 multiply-adds and its share of 8e6 for the last one.
  assertEquals(ours.multiplyShare[16]!.toFixed(3), "0.500");
  assertEquals(ours.multiplyShare[32]!.toFixed(3), "0.417");
  const [ratios] = result.ratios;
  assertEquals([ratios.engine, ratios.peer], ["ours", "theirs"]);
  assertEquals([ratios.decode!.toFixed(3), ratios.prefill[16]!.toFixed(3)], ["2.000", "2.000"]);
  assertEquals(ratios.peakBytes!.toFixed(3), "0.667");

  const text = formatReport({
    model: "m.gguf",
    workload: { ...WORKLOAD, routed: { layers: 11, experts: 32, topK: 4, bytes: 2e6 } },
    machine: { cpu: "C", cores: 2, memoryBytes: 1e9, os: "linux", deno: "2" },
    loadBefore: 0.25,
    loadAfter: 1,
    prefill: [16, 32],
    decode: 4,
    skipped: [{ name: "wllama", reason: "--wllama is not given" }],
    results: [result],
  });
  assertStringIncludes(
    text,
    "m.gguf: 4 MB; 40.0 M parameters, 12.5 M active (4 of 32 experts in 11 layers); 3 MB of weights",
  );
  assertStringIncludes(text, "load average 0.25 before, 1.00 after");
  assertStringIncludes(text, "1 thread: a plain loop reads 3.00 GB/s");
  assertStringIncludes(text, "wllama skipped: --wllama is not given");
  assert(/^ours \/ theirs +2\.00 x +2\.00 x +2\.00 x /m.test(text), text);
});

Deno.test("a table aligns its first column left and the others right", () => {
  assertEquals(table([["a", "bb", "c"], ["long", "1", "22"]]), ["a     bb   c", "long   1  22"]);
});
