/** What all parts of `--serving` are told. */

import { type ActivationPrecision, PAGE_TOKENS } from "../../backend/backend.ts";
import { CapacityError } from "../../errors.ts";
import type { Workload } from "../workload.ts";
import { type ServerFlags, ServerProcess } from "./server_process.ts";

export interface ServingOptions {
  readonly model: string;
  readonly workload: Workload;
  /** Bytes of a page of the KV cache, PAGE_TOKENS tokens of all layers. */
  readonly unitBytes: number;
  readonly threads: number;
  readonly activations: ActivationPrecision;
  /** Further flags of `deno task start`, for every server. */
  readonly serverFlags: ServerFlags;
  /** Measurements of each kind. */
  readonly runs: number;
  /** Numbers of answers side by side. */
  readonly streams: readonly number[];
  /** Tokens of prompts and answers where a part has no lengths of its own. */
  readonly prompt: number;
  readonly answer: number;
  /** Tokens of the prompt whose prefix is kept. */
  readonly prefix: number;
  /** Requests of the part that watches memory. */
  readonly requests: number;
  /** Connections kept open, and requests at once beside them. */
  readonly idle: number;
  readonly burst: number;
  /** A Python that has llama-cpp-python; without it there is no peer. */
  readonly llamaPython?: string;
  readonly onProgress: (line: string) => void;
}

/** Starts a server for the model with what a part needs; `--server-flags` win. */
export async function startServer(options: ServingOptions, flags: ServerFlags = {}) {
  const { model, threads, activations, serverFlags } = options;
  return await ServerProcess.start({ model, threads, activations, ...flags, ...serverFlags });
}

/** Whole pages of context for so many tokens; throws CapacityError where the model has fewer. */
export function contextOf({ workload }: ServingOptions, tokens: number): number {
  const context = Math.ceil((tokens + 1) / PAGE_TOKENS) * PAGE_TOKENS;
  if (context <= workload.contextLength) return context;
  throw new CapacityError(
    `cannot bench: prompts and answers need a context of ${context} tokens, ` +
      `must fit the model's ${workload.contextLength}`,
  );
}

/** Longest wait for a process to come to rest, and how long it must have done next to nothing. */
const REST_LIMIT_MS = 10_000;
const REST_MS = 300;
/** Cores that count as rest. */
const REST_CORES = 0.1;

/** Waits until a server has done what it still had to do behind its answers. */
export async function rest(server: { cpuSeconds(): number | undefined }): Promise<void> {
  const until = performance.now() + REST_LIMIT_MS;
  while (performance.now() < until) {
    const before = server.cpuSeconds();
    if (before === undefined) return;
    await new Promise((resolve) => setTimeout(resolve, REST_MS));
    const after = server.cpuSeconds();
    if (after === undefined) return;
    if ((after - before) * 1000 / REST_MS <= REST_CORES) return;
  }
}

/** Runs `work` with a new folder that is gone afterwards. */
export async function withFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = await Deno.makeTempDir({ prefix: "sluice-bench-" });
  try {
    return await work(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
