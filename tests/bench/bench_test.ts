import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { chooseEngines } from "../../src/bench/engines.ts";
import { kernelTypes, measureKernels } from "../../src/bench/kernels.ts";
import type { EngineReport } from "../../src/bench/report.ts";
import { main } from "../../src/cli/bench.ts";
import { BENCH_FLAGS } from "../../src/cli/bench_flags.ts";
import { parseFlags } from "../../src/cli/flags.ts";
import { CapacityError, FormatError, OptionError } from "../../src/errors.ts";
import { ROOT } from "../support/fixtures.ts";

const MODEL = new URL("tests/data/goldens/gguf/qwen3/qwen3.q8_0.gguf", ROOT).pathname;

function parse(args: string[], env: Record<string, string> = {}) {
  return parseFlags(BENCH_FLAGS, { command: "bench", args, env: (name) => env[name] }).values;
}

/** Runs the command; what it printed for people, and its last line parsed. */
async function run(...args: string[]) {
  let text = "";
  const stdout = {
    writeSync(bytes: Uint8Array) {
      text += new TextDecoder().decode(bytes);
      return bytes.length;
    },
  };
  const stderr = { writeSync: (bytes: Uint8Array) => bytes.length };
  assertEquals(await main(args, { stdout, stderr }), 0);
  const lines = text.trimEnd().split("\n");
  return { lines, json: JSON.parse(lines.at(-1)!) };
}

Deno.test("bench takes lists of threads, precisions and prompts, and finds peers by variables", () => {
  const values = parse(["--threads", "1,2", "--activations=q8,f32", "--prefill", "16,32"], {
    SLUICE_LLAMA_PYTHON: "/opt/python",
    SLUICE_WLLAMA: "/opt/w",
  });
  assertEquals(values.threads, [1, 2]);
  assertEquals(values.activations, ["q8", "f32"]);
  assertEquals(values.prefill, [16, 32]);
  assertEquals([values["llama-python"], values.wllama], ["/opt/python", "/opt/w"]);
  assertEquals([values.runs, values.decode, values.peers, values.json], [5, 64, false, false]);
  assertEquals(parse([]).prefill, [128, 512]);
  assertEquals([parse([]).batch, parse(["--batch", "1,16"]).batch], [[], [1, 16]]);
});

Deno.test("bench refuses wrong lists by the flag's name and what is right", async () => {
  const wrong = [
    ["--threads", "0"],
    ["--threads", "1,1"],
    ["--threads", "1,,2"],
    ["--threads", "65"],
    ["--activations", "q8,q7"],
    ["--types", "Q4_1,IQ1_S"],
    ["--runs", "0"],
    ["--prefill", "128,"],
    ["--batch", "0"],
    ["--batch", "1,257"],
    ["--resident", "50"],
    ["--resident", "0%"],
    ["--latency", "-1"],
  ];
  for (const [flag, value] of wrong) {
    const error = await assertRejects(() => main([flag, value]), OptionError);
    assertStringIncludes(error.message, `cannot bench: ${flag} is "${value}", must be `);
  }
});

Deno.test("bench refuses a model that is not there and prompts beyond its context", async () => {
  await assertRejects(() => main(["--model", `${MODEL}.missing`]), FormatError);
  await assertRejects(
    () => main(["--model", MODEL]),
    CapacityError,
    "prompts and answers need a context of 576 tokens, must fit the model's 256",
  );
});

Deno.test("peers that are not named or not there are skipped with the reason", () => {
  const options = { model: MODEL, context: 64, activations: ["q8", "q16"] as const, steps: true };
  const alone = chooseEngines({ ...options, peers: false });
  assertEquals(
    alone.engines.map(({ name }) => name),
    ["sluice q8", "sluice q16", "step q8", "step q16"],
  );
  assertEquals(alone.skipped, []);
  const here = new URL("tests/bench", ROOT).pathname;
  const { engines, skipped } = chooseEngines({ ...options, peers: true, wllama: here });
  assertEquals(engines.length, 4);
  assertEquals(skipped, [
    { name: "llama.cpp", reason: "--llama-python is not given" },
    { name: "node-llama-cpp", reason: "--node-llama is not given" },
    {
      name: "wllama",
      reason: `--wllama is "${here}", must be a folder with node_modules/@wllama/wllama`,
    },
  ]);
});

Deno.test("drivers get the model, the threads and the context", () => {
  const { engines } = chooseEngines({
    model: MODEL,
    context: 576,
    activations: ["q16"],
    steps: false,
    peers: true,
    llamaPython: MODEL,
  });
  const [own, python] = engines.map((engine) => engine.command(3));
  assertEquals(own.command, Deno.execPath());
  assertEquals(own.args.slice(-5), [MODEL, "3", "q16", "576", "{}"]);
  assertMatch(own.args.at(-6)!, /src\/bench\/drivers\/sluice\.ts$/);
  assertEquals([python.command, ...python.args.slice(1)], [MODEL, MODEL, "3", "576"]);
});

Deno.test("our engine is started with the backend that is measured, which is part of its name", () => {
  const { engines: [own] } = chooseEngines({
    ...{ model: MODEL, context: 64, activations: ["f32"], steps: false, peers: false },
    engine: { backend: "webgpu", gpuBytes: 7 },
  });
  assertEquals(own.name, "sluice webgpu f32");
  assertEquals(JSON.parse(own.command(1).args.at(-1)!), { backend: "webgpu", gpuBytes: 7 });
});

const mayRun = Deno.permissions.querySync({ name: "run" }).state === "granted";
if (!mayRun) console.log("skipped: the benchmark of a whole model needs --allow-run");

Deno.test({
  name: "bench ends in one line of JSON with every figure of a model",
  ignore: !mayRun,
  async fn() {
    const counts = ["--prefill", "16,32", "--decode", "4", "--runs", "2", "--threads", "1"];
    const { lines, json } = await run(
      ...["--model", MODEL, ...counts, "--activations", "q8", "--steps", "--peers"],
    );
    assertEquals(json.model, "qwen3.q8_0.gguf");
    assertEquals([json.prefill, json.decode, json.machine.deno], [[16, 32], 4, Deno.version.deno]);
    assert(json.loadBefore >= 0 && json.loadAfter >= 0 && json.machine.cores > 0);
    const [result] = json.results;
    assertEquals([json.results.length, result.threads], [1, 1]);
    assert(result.bandwidth.median > 0);
    const names = result.engines.map(({ engine, kind }: EngineReport) => [engine, kind]);
    assertEquals(names.slice(0, 2), [["sluice q8", "own"], ["step q8", "step"]]);
    for (const engine of result.engines.slice(0, 2)) {
      for (const summary of [engine.prefill[16], engine.prefill[32], engine.decode]) {
        assertEquals(summary.runs, 2);
        assert(0 < summary.min && summary.min <= summary.median && summary.median <= summary.max);
      }
      assert(engine.firstTokenSeconds.median > 0 && engine.loadSeconds > 0);
      assert(engine.coldStartSeconds > engine.loadSeconds);
      assert(engine.decodeBytesPerSecond > 0 && engine.bandwidthShare > 0);
    }
    assertEquals(json.skipped.length + result.failed.length + result.ratios.length, 3);
    assert(lines.some((line) => line.startsWith("1 thread: a plain loop reads ")));
  },
});

Deno.test({
  name: "bench decodes sequences side by side and says how fast",
  ignore: !mayRun,
  async fn() {
    const counts = ["--prefill", "16", "--decode", "8", "--runs", "2", "--threads", "1"];
    const { lines, json } = await run(
      ...["--model", MODEL, ...counts, "--activations", "q8", "--batch", "1,8"],
    );
    assertEquals([json.model, json.prompt, json.decode], ["qwen3.q8_0.gguf", 16, 8]);
    const [one, eight] = json.batches;
    assertEquals([one.sequences, eight.sequences], [1, 8]);
    assertEquals([one.decode.runs, eight.decode.runs], [2, 2]);
    assert(one.decode.median > 0 && eight.decode.median > 0 && eight.bytesPerSecond > 0);
    assertEquals(one.expertsRead, undefined);
    assert(lines.some((line) => line.startsWith("sequences ")));
  },
});

Deno.test("every type with a kernel of its own can be measured alone", async () => {
  assert(kernelTypes().includes("Q4_1") && !kernelTypes().includes("IQ1_S"));
  const figures = await measureKernels({
    types: ["Q4_1", "F16"],
    threads: 1,
    activations: "q8",
    memoryBytes: 1,
    measurements: 1,
  });
  assertEquals(figures.map(({ type }) => type), ["Q4_1", "F16"]);
  for (const figure of figures) {
    assert(figure.cachedBytesPerSecond.median > 0 && figure.memoryBytesPerSecond.median > 0);
    assert(figure.prefillMacsPerSecond.median > 0);
    const bytesPerMac = (of: typeof figure) =>
      of.memoryBytesPerSecond.median / of.memoryMacsPerSecond.median;
    // Bytes of a weight as the backend holds it: no fewer than 4 bits, no more than 4 bytes.
    assert(bytesPerMac(figure) >= 0.5 && bytesPerMac(figure) <= 4.01);
  }
});
