import { assert, assertEquals, assertThrows } from "@std/assert";
import { driverOf } from "../../src/bench/engines.ts";
import { matricesOf, parseTraining } from "../../src/bench/training_model.ts";
import {
  chooseTrainingEngines,
  FLAGS,
  measurePeers,
  MODEL,
  peerTokens,
} from "../../src/bench/training_peers.ts";
import {
  differenceProblem,
  formatTable,
  type PeerRun,
  rowsOf,
} from "../../src/bench/training_peers_report.ts";
import { parseFlags } from "../../src/cli/flags.ts";
import { OptionError } from "../../src/errors.ts";

const parse = (...args: string[]) =>
  parseFlags(FLAGS, { command: "compare training", args, env: () => undefined }).values;

function run(name: string, options: Partial<PeerRun> = {}): PeerRun {
  return {
    ...{ name, threads: 1, version: `${name} 1.0`, parameters: 1115264 },
    ...{ firstLoss: 6.94, lastLoss: 5, seconds: [0.2], ...options },
  };
}

Deno.test("the comparison of training reads its flags and refuses numbers of threads that are none", () => {
  const { threads, rounds, python, compile } = parse(
    ...["--threads", "1,2", "--rounds", "5", "--python", "python3", "--compile"],
  );
  assertEquals({ threads, rounds, python, compile }, {
    ...{ threads: ["1", "2"], rounds: 5, python: "python3", compile: true },
  });
  for (const wrong of ["0", "65", "two", "1,,2"]) {
    assertThrows(() => parse("--threads", wrong), OptionError, "--threads");
  }
});

Deno.test("engines are ours, jax-js by the specifier that is named, and PyTorch where a Python is", () => {
  const { engines, skipped } = chooseTrainingEngines({ python: "python3", jaxJs: "npm:other@2" });
  assertEquals(engines.map(({ name }) => name), ["sluice", "jax-js", "PyTorch"]);
  const model = { ...MODEL, threads: 2 };
  const [own, jaxJs, torch] = engines.map(({ command }) => command(model));
  assert(own.args.includes(driverOf("sluice_training.ts")));
  assertEquals(jaxJs.args.slice(-2), ["npm:other@2", JSON.stringify(model)]);
  assertEquals([torch.command, torch.args[1]], ["python3", JSON.stringify(model)]);
  assertEquals(skipped, []);
  const alone = chooseTrainingEngines({ jaxJs: "none" });
  assertEquals(alone.engines.map(({ name }) => name), ["sluice"]);
  assertEquals(alone.skipped.map(({ name }) => name), ["jax-js", "PyTorch"]);
});

Deno.test("the table has a row for each engine and number of threads, and how many times faster we are", () => {
  const rows = rowsOf([
    run("sluice", { seconds: [0.1, 0.2], cpuSeconds: 0.15 }),
    run("jax-js", { seconds: [0.4, 0.5], cpuSeconds: 0.45 }),
    run("jax-js", { threads: 2, seconds: [0.3] }),
    run("sluice", { seconds: [0.3], cpuSeconds: 0.25 }),
  ], MODEL);
  assertEquals(formatTable(rows).split("\n"), [
    "| engine | threads | ms a step | tokens/s | processor ms | loss | we are |",
    "| --- | --- | --- | --- | --- | --- | --- |",
    "| sluice | 1 | 200 (100-300) | 5120 | 200 (150-250) | 6.94 to 5.00 |  |",
    "| jax-js 1.0 | 1 | 450 (400-500) | 2276 | 450 | 6.94 to 5.00 | 2.25 x as fast |",
    "| jax-js 1.0 | 2 | 300 | 3413 | - | 6.94 to 5.00 |  |",
  ]);
});

Deno.test("engines that train something else are named", () => {
  const ours = run("sluice");
  assertEquals(differenceProblem([ours, run("jax-js", { lastLoss: 5.2 })], MODEL), undefined);
  const problem = (options: Partial<PeerRun>) =>
    differenceProblem([ours, run("jax-js", options)], MODEL) ?? "";
  assert(problem({ parameters: 1 }).startsWith("jax-js has 1 parameters"));
  assert(problem({ firstLoss: 9 }).includes("must be near 6.931"));
  assert(problem({ firstLoss: NaN }).includes("must be near 6.931"));
  assert(problem({ lastLoss: 4 }).includes("ends with a loss of 4.000"));
});

Deno.test("our engine trains all of the model, from even guesses down, as a process of its own", async () => {
  const { engines } = chooseTrainingEngines({ jaxJs: "none" });
  const { runs, failed } = await measurePeers(engines, {
    ...{ threads: [1], rounds: 1, warming: 1, steps: 1 },
  });
  assertEquals(failed, []);
  const shapes = Object.values(matricesOf({ ...MODEL, threads: 1 }));
  const parameters = shapes.reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);
  assertEquals(runs[0].parameters, parameters);
  assertEquals(runs[0].seconds.length, 1);
  assert(runs[0].lastLoss < runs[0].firstLoss);
  assertEquals(differenceProblem(runs, MODEL), undefined);
});

Deno.test("an engine that fails is left out, with its last words", async () => {
  const broken = {
    name: "broken",
    command: () => ({ command: Deno.execPath(), args: ["eval", "throw new Error('no torch')"] }),
  };
  const { runs, failed } = await measurePeers([broken], {
    ...{ threads: [1, 2], rounds: 2, warming: 1, steps: 1 },
  });
  assertEquals(runs, []);
  assertEquals(failed.length, 1);
  assert(failed[0].reason.includes("no torch"), failed[0].reason);
});

Deno.test("tokens of a step are the same each time, and each target is the next input", () => {
  const { inputs, targets } = peerTokens(MODEL);
  assertEquals([inputs.length, inputs[0].length], [MODEL.samples, MODEL.length]);
  assertEquals(inputs[3].slice(1), targets[3].slice(0, -1));
  assertEquals(peerTokens(MODEL), { inputs, targets });
});

Deno.test("a driver's answer with other things than numbers is refused", () => {
  const line = (training: unknown) => `@bench ${JSON.stringify({ training })}`;
  const right = { parameters: 1, losses: [1], seconds: [0.5] };
  assertEquals(parseTraining(line(right)), right);
  for (const wrong of [null, { ...right, losses: [null] }, { ...right, seconds: 1 }]) {
    assertThrows(() => parseTraining(line(wrong)), Error, "cannot read a driver's answer");
  }
});
