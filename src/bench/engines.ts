/** Which engines a run compares, how each is started, and why one is left out. */

import type { ActivationPrecision } from "../backend/backend.ts";
import type { EngineOptions } from "../engine/types.ts";
import type { DriverCommand } from "./driver_process.ts";

/** An engine that can be started with any number of threads. */
export interface BenchEngine {
  readonly name: string;
  /** Peers are what our own engine's figures are divided by. */
  readonly kind: "own" | "step" | "peer";
  command(threads: number): DriverCommand;
}

export interface Skipped {
  readonly name: string;
  readonly reason: string;
}

export interface EnginesOptions {
  readonly model: string;
  /** Tokens of context. */
  readonly context: number;
  readonly activations: readonly ActivationPrecision[];
  /** What else of our engine's options differs from the defaults. */
  readonly engine?: Partial<EngineOptions>;
  /** Also measure bare model steps, on the WASM kernels. */
  readonly steps: boolean;
  readonly peers: boolean;
  /** A Python that has llama-cpp-python. */
  readonly llamaPython?: string;
  /** A folder with node_modules/node-llama-cpp. */
  readonly nodeLlama?: string;
  /** A folder with node_modules/@wllama/wllama. */
  readonly wllama?: string;
}

/** The path of a driver script. */
export function driverOf(name: string): string {
  return decodeURIComponent(new URL(`./drivers/${name}`, import.meta.url).pathname);
}

/** Our engines in each precision, then the peers that can be found. */
export function chooseEngines(
  options: EnginesOptions,
): { engines: BenchEngine[]; skipped: Skipped[] } {
  const { model, activations, steps, engine = {} } = options;
  const context = String(options.context);
  const { backend } = engine;
  const ownName = backend === undefined || backend === "wasm" ? "sluice" : `sluice ${backend}`;
  const own = (kind: "own" | "step", script: string, name: string): BenchEngine[] =>
    activations.map((precision) => ({
      name: `${name} ${precision}`,
      kind,
      command: (threads) => ({
        command: Deno.execPath(),
        args: [
          ...["run", "--no-prompt", "--allow-read", driverOf(script)],
          ...[model, String(threads), precision, context, JSON.stringify(engine)],
        ],
      }),
    }));
  const engines = own("own", "sluice.ts", ownName);
  if (steps) engines.push(...own("step", "sluice_step.ts", "step"));
  const skipped: Skipped[] = [];
  if (!options.peers) return { engines, skipped };

  const peer = (
    name: string,
    { given, flag, folder, command }: {
      given: string | undefined;
      flag: string;
      /** What the given folder must hold. */
      folder?: string;
      command: (given: string) => BenchEngine["command"];
    },
  ) => {
    const reason = given === undefined
      ? `--${flag} is not given`
      : exists(folder === undefined ? given : `${given}/${folder}`)
      ? undefined
      : `--${flag} is ${JSON.stringify(given)}, must be ${
        folder === undefined ? "a file" : `a folder with ${folder}`
      }`;
    if (reason !== undefined) skipped.push({ name, reason });
    else engines.push({ name, kind: "peer", command: command(given!) });
  };
  peer("llama.cpp", {
    given: options.llamaPython,
    flag: "llama-python",
    command: (python) => (threads) => ({
      command: python,
      args: [driverOf("llama_python.py"), model, String(threads), context],
    }),
  });
  peer("node-llama-cpp", {
    given: options.nodeLlama,
    flag: "node-llama",
    folder: "node_modules/node-llama-cpp",
    command: (folder) => (threads) => ({
      command: "node",
      args: [driverOf("node_llama_cpp.mjs"), folder, model, String(threads), context],
    }),
  });
  peer("wllama", {
    given: options.wllama,
    flag: "wllama",
    folder: "node_modules/@wllama/wllama",
    command: (folder) => (threads) => ({
      command: Deno.execPath(),
      args: ["run", "-A", driverOf("wllama.ts"), folder, model, String(threads), context],
    }),
  });
  return { engines, skipped };
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}
