/**
 * Times training steps of the same dense Llama on our kernels, PyTorch's CPU and jax-js's WebAssembly
 * device: `deno run -A src/bench/training_peers.ts --python PYTHON --threads 1,2 --rounds 3`. Engines take
 * turns, each time in a process of its own. The last line is JSON.
 */

import {
  type FlagTable,
  helpText,
  integerFlag,
  listFlag,
  parseFlags,
  switchFlag,
  textFlag,
} from "../cli/flags.ts";
import { Xoshiro128 } from "../sampling/random.ts";
import { type DriverCommand, DriverProcess } from "./driver_process.ts";
import { driverOf, type Skipped } from "./engines.ts";
import { describeMachine, loadAverage, noiseWarning } from "./machine.ts";
import { summarize, threeDigits } from "./statistics.ts";
import { DENSE } from "./training_shapes.ts";
import { parseTraining, type PeerModel, type PeerTokens, RULE } from "./training_model.ts";
import { differenceProblem, formatTable, type PeerRun, rowsOf } from "./training_peers_report.ts";

/** The version of jax-js that is asked for where no other is named. */
const JAX_JS = "npm:@jax-js/jax@0.1.25";

export const FLAGS = {
  python: textFlag({ help: "a Python that has torch", placeholder: "PYTHON" }),
  "jax-js": textFlag({ help: `the package's specifier, none to skip it (default ${JAX_JS})` }),
  compile: switchFlag({ help: "also PyTorch with torch.compile, which needs a C++ compiler" }),
  threads: listFlag({
    help: "numbers of threads (default 1,2)",
    placeholder: "N,..",
    must: "whole numbers from 1 to 64, such as 1,2",
    accepts: (word) => /^\d{1,2}$/.test(word) && Number(word) >= 1 && Number(word) <= 64,
  }),
  rounds: integerFlag({ help: "turns of each engine", min: 1, max: 100, fallback: 3 }),
  warming: integerFlag({ help: "steps of a turn before those", min: 1, max: 1000, fallback: 3 }),
  steps: integerFlag({ help: "steps of a turn that are timed", min: 1, max: 1000, fallback: 10 }),
} satisfies FlagTable;

const { hidden: width, layers, heads, intermediate } = DENSE;

/** The model without threads, and a step of 8 samples of 128 tokens. */
export const MODEL: Omit<PeerModel, "threads"> = Object.freeze({
  ...{ width, layers, heads, intermediate, vocabulary: 1024, samples: 8, length: 128 },
});

export interface PeerEngine {
  readonly name: string;
  command(model: PeerModel): DriverCommand;
}

/** Our engine first, then the peers that were named. */
export function chooseTrainingEngines(
  { python, jaxJs = JAX_JS, compile = false }: {
    python?: string;
    jaxJs?: string;
    compile?: boolean;
  },
): { engines: PeerEngine[]; skipped: Skipped[] } {
  const inDeno = (script: string, args: readonly string[]) => (model: PeerModel) => ({
    command: Deno.execPath(),
    // Without the lock file, which is to name our own dependencies only.
    args: ["run", "-A", "--no-lock", driverOf(script), ...args, JSON.stringify(model)],
  });
  const torch = (mode: string) => (model: PeerModel) => ({
    command: python!,
    args: [driverOf("torch_training.py"), JSON.stringify(model), mode, JSON.stringify(RULE)],
  });
  const engines: PeerEngine[] = [{ name: "sluice", command: inDeno("sluice_training.ts", []) }];
  const skipped: Skipped[] = [];
  if (jaxJs === "none") skipped.push({ name: "jax-js", reason: "--jax-js is none" });
  else engines.push({ name: "jax-js", command: inDeno("jax_js_training.ts", [jaxJs]) });
  if (python === undefined) skipped.push({ name: "PyTorch", reason: "--python is not given" });
  else {
    engines.push({ name: "PyTorch", command: torch("eager") });
    if (compile) engines.push({ name: "PyTorch compiled", command: torch("compile") });
  }
  return { engines, skipped };
}

/** Even draws, the same each time. */
export function peerTokens({ samples, length, vocabulary }: typeof MODEL): PeerTokens {
  const random = new Xoshiro128(1);
  const sample = () => Array.from({ length: length + 1 }, () => random.nextUint32() % vocabulary);
  const all = Array.from({ length: samples }, sample);
  return { inputs: all.map((ids) => ids.slice(0, -1)), targets: all.map((ids) => ids.slice(1)) };
}

/** One turn: a process that warms up, then is timed. */
async function turn(
  { name, command }: PeerEngine,
  { threads, warming, steps }: { threads: number; warming: number; steps: number },
): Promise<PeerRun> {
  const { driver, ready } = await DriverProcess.start(command({ ...MODEL, threads }));
  try {
    const tokens = peerTokens(MODEL);
    const train = async (steps: number) => parseTraining(await driver.ask({ tokens, steps }));
    const warm = await train(warming);
    const before = driver.cpuSeconds();
    const timed = await train(steps);
    const after = driver.cpuSeconds();
    return {
      ...{ name, threads, version: ready.version, parameters: timed.parameters },
      firstLoss: warm.losses[0],
      lastLoss: timed.losses[steps - 1],
      seconds: timed.seconds,
      ...(before !== undefined && after !== undefined && { cpuSeconds: (after - before) / steps }),
    };
  } finally {
    await driver.close();
  }
}

/** All engines in turns; an engine that fails is left out from then on. */
export async function measurePeers(
  engines: readonly PeerEngine[],
  options: { threads: readonly number[]; rounds: number; warming: number; steps: number },
  said: (run: PeerRun) => void = () => {},
): Promise<{ runs: PeerRun[]; failed: Skipped[] }> {
  const runs: PeerRun[] = [];
  const failed: Skipped[] = [];
  for (let round = 0; round < options.rounds; round++) {
    for (const threads of options.threads) {
      for (const engine of engines) {
        if (failed.some(({ name }) => name === engine.name)) continue;
        try {
          const run = await turn(engine, { ...options, threads });
          runs.push(run);
          said(run);
        } catch (error) {
          failed.push({ name: engine.name, reason: (error as Error).message });
        }
      }
    }
  }
  return { runs, failed };
}

async function main(args: readonly string[]): Promise<void> {
  const env = (name: string) => Deno.env.get(name);
  const { values, help } = parseFlags(FLAGS, { command: "compare training", args, env });
  if (help) {
    const usage = "deno run -A src/bench/training_peers.ts --python PYTHON [--threads 1,2]";
    console.log(helpText(FLAGS, { usage, about: "Times steps of training beside other engines." }));
    return;
  }
  const threads = values.threads.length === 0 ? [1, 2] : values.threads.map(Number);
  const { engines, skipped } = chooseTrainingEngines({ ...values, jaxJs: values["jax-js"] });
  const load = loadAverage();
  const machine = describeMachine();
  console.log(`${machine.cpu}, ${machine.cores} cores; load average before ${load.toFixed(2)}`);
  const warning = noiseWarning(load);
  if (warning !== undefined) console.log(warning);
  const { runs, failed } = await measurePeers(engines, { ...values, threads }, (run) => {
    const { median } = summarize(run.seconds)!;
    console.error(`${run.name}, ${run.threads} threads: ${threeDigits(median * 1e3)} ms a step`);
  });
  for (const { name, reason } of [...skipped, ...failed]) console.log(`without ${name}: ${reason}`);
  console.log(formatTable(rowsOf(runs, MODEL)));
  const problem = differenceProblem(runs, MODEL);
  if (problem !== undefined) console.log(`warning: ${problem}`);
  console.log(JSON.stringify({ machine, load, model: MODEL, runs, skipped, failed }));
}

if (import.meta.main) await main(Deno.args);
