/** Runs a document through a model and keeps what its gates chose, step by step. */

import type { TensorSource } from "../formats/tensor_source.ts";
import type { Evaluator } from "../model/evaluate.ts";
import { gateTensors } from "./outline_tensors.ts";
import type { TraceStep } from "./trace.ts";

export interface RecordOptions {
  /** Its sequence 0 is used, from its beginning; its model was loaded with `foresee`. */
  readonly evaluator: Evaluator;
  /** The prompt's tokens, at least one. */
  readonly ids: readonly number[];
  /** Tokens of the prompt evaluated at a time. */
  readonly chunk: number;
  /** Tokens that the model adds at most. */
  readonly tokens: number;
  /** Chooses the next token from its logits, `[vocab]`. */
  readonly choose: (logits: Float32Array) => number;
  /** Whether a token ends the answer. */
  readonly isEnd: (token: number) => boolean;
}

/** The steps of the prompt, then those of the answer, one token each. */
export async function* recordSteps(options: RecordOptions): AsyncGenerator<TraceStep> {
  const { evaluator, ids, chunk, tokens, choose, isEnd } = options;
  evaluator.truncate(0, 0);
  const run = async (part: readonly number[], prefill: boolean) => {
    const [logits] = await evaluator.step([{ sequence: 0, ids: part }], { logits: "last" });
    const layers = await evaluator.routing();
    const experts = layers.map((layer) => Array.from(layer.experts));
    const predicted = await evaluator.foreseen();
    return { logits, step: { rows: part.length, prefill, experts, predicted } };
  };
  let last: Float32Array | undefined;
  for (let start = 0; start < ids.length; start += chunk) {
    const { logits, step } = await run(ids.slice(start, start + chunk), true);
    last = logits;
    yield step;
  }
  for (let i = 0; i < tokens && last !== undefined; i++) {
    const token = choose(last);
    if (isEnd(token)) break;
    const { logits, step } = await run([token], false);
    last = logits;
    yield step;
  }
}

/** SHA-256 of the gates' weights, in hexadecimal: files whose routing is the same have the same. */
export async function routingFingerprint(source: TensorSource): Promise<string> {
  const digests: Uint8Array[] = [];
  for (const tensor of gateTensors(source)) {
    const bytes = new Uint8Array(tensor.byteLength);
    await source.read(tensor, 0, bytes);
    digests.push(await sha256(new TextEncoder().encode(tensor.name)), await sha256(bytes));
  }
  const all = new Uint8Array(digests.length * 32);
  digests.forEach((digest, i) => all.set(digest, i * 32));
  return (await sha256(all)).toHex();
}

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}
