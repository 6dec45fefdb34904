/**
 * Where a run stands, on the disk. `run.json` names the file of weights that it belongs to and is put in
 * place last, so that a run which is killed at any moment goes on from a whole state.
 */

import { createHash } from "node:crypto";
import { FormatError, OptionError } from "../../errors.ts";
import type { OutputFolder } from "../data/build/folder.ts";
import { writeText } from "../data/build/folder.ts";
import type { PhaseCost } from "./costs.ts";

/** What happened, without times: the same whenever the recipe is run. */
export interface Position {
  /** The recipe's phase that is next or under way; as many as there are: all are done. */
  readonly phase: number;
  /** Steps made of it. */
  readonly step: number;
  /** Of a phase that samples first: prompts done, and what was kept, as bytes of its file. */
  readonly sampled: { readonly prompts: number; readonly bytes: number; readonly kept: number };
  readonly evaluations: readonly {
    readonly phase: string;
    readonly step: number;
    readonly accuracy: number;
    readonly families: Readonly<Record<string, number>>;
  }[];
  readonly costs: readonly PhaseCost[];
}

export interface RunState {
  readonly version: 1;
  /** Stands for the recipe and the data. */
  readonly fingerprint: string;
  readonly position: Position;
  /** The file of weights; null before there is one. */
  readonly weights: string | null;
  readonly weightsHash: string | null;
  /** Seconds of each phase. */
  readonly seconds: readonly number[];
  /** Bytes of metrics.jsonl that belong to it. */
  readonly metricsBytes: number;
}

export const STATE_FILE = "run.json";
export const NOTHING_SAMPLED: Position["sampled"] = { prompts: 0, bytes: 0, kept: 0 };

/** The state that a folder holds; null where there is none. */
export function readState(folder: OutputFolder, fingerprint: string): RunState | null {
  const text = folder.readText(STATE_FILE);
  if (text === null) return null;
  const state: RunState = JSON.parse(text);
  if (state.fingerprint === fingerprint) return state;
  throw new OptionError(
    "cannot resume: the folder holds a run of another recipe or of other data, must be of the same",
  );
}

/** Puts a state in place; with new weights, removes files of older ones but the last `keep`. */
export function saveState(
  folder: OutputFolder,
  { state, weights, keep }: { state: RunState; weights?: Uint8Array<ArrayBuffer>; keep: number },
): RunState {
  let saved = state;
  if (weights !== undefined) {
    const { phase, step } = state.position;
    const name = `weights-${digits(phase, 2)}-${digits(step, 7)}.safetensors`;
    folder.write(name, weights);
    saved = { ...state, weights: name, weightsHash: hashOf(weights) };
  }
  writeText(folder, { name: STATE_FILE, text: `${JSON.stringify(saved, null, 1)}\n` });
  if (weights !== undefined) {
    const files = folder.names().filter((name) => WEIGHTS_NAME.test(name)).sort();
    const old = files.filter((name) => name !== saved.weights);
    for (const name of old.slice(0, Math.max(0, old.length - keep))) folder.remove(name);
  }
  return saved;
}

const WEIGHTS_NAME = /^weights-\d+-\d+\.safetensors$/;

function digits(value: number, width: number): string {
  return String(value).padStart(width, "0");
}

/** The bytes of the state's weights. FormatError where they are not those that were saved. */
export async function readWeights(
  folder: OutputFolder,
  { weights, weightsHash }: RunState,
): Promise<Uint8Array | null> {
  if (weights === null) return null;
  const bytes = new Uint8Array(await new Response(await folder.stream(weights)).arrayBuffer());
  const hash = hashOf(bytes);
  if (hash === weightsHash) return bytes;
  throw FormatError.of("resume", `the hash of ${weights}`, hash, `${weightsHash}`);
}

/** Stands for all of a state but times: two runs of one recipe end with the same. */
export function stateHash({ position, weightsHash, fingerprint }: RunState): string {
  const text = JSON.stringify({ fingerprint, position, weightsHash });
  return hashOf(new TextEncoder().encode(text));
}

/** The runtime's own, since files of weights are large. */
function hashOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
