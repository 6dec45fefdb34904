/** All that a model's answers consist of, so that two ways of running it can be compared bit by bit. */

import { assertEquals } from "@std/assert";
import type { Backend, Plan } from "../../src/backend/backend.ts";
import type { WasmPlan } from "../../src/backend/wasm/plan.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { Evaluator, type LayerRouting } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import type { Model } from "../../src/model/types.ts";
import { assertSameBits } from "../backend/_harness.ts";
import type { Golden } from "./_goldens.ts";

export const MAX_ROWS = 128;
const GREEDY = 6;

export interface Opened {
  readonly backend: Backend;
  readonly model: Model;
  readonly evaluator: Evaluator;
  /** Plans recorded so far. */
  readonly plans: readonly WasmPlan[];
}

/** Loads a checkpoint on a fresh wasm backend and closes both afterwards. */
export async function withOpened(
  path: string,
  options: { open: () => Promise<Backend>; body: (opened: Opened) => Promise<void> },
): Promise<void> {
  const source = await openCheckpoint(path);
  try {
    const backend = await options.open();
    try {
      const plans: WasmPlan[] = [];
      const record = backend.record.bind(backend);
      backend.record = (build): Plan => {
        const plan = record(build);
        plans.push(plan as WasmPlan);
        return plan;
      };
      const rows = { maxRows: MAX_ROWS, maxLogitRows: MAX_ROWS };
      const model = await loadModel({ source, backend, ...rows });
      const limits = { maxRows: MAX_ROWS, sequences: 2, tokens: MAX_ROWS };
      const evaluator = new Evaluator({ model, backend, ...limits });
      await options.body({ backend, model, evaluator, plans });
    } finally {
      backend.close();
    }
  } finally {
    source.close();
  }
}

/** What a model makes of a case's longest sequence, whole, in chunks and beside another. */
export interface Outcome {
  /** [tokens, vocab] */
  readonly logits: Float32Array;
  readonly routing: readonly LayerRouting[];
  /** Of a decode step after the prompt. */
  readonly decodeRouting: readonly LayerRouting[];
  readonly greedy: readonly number[];
}

/** Runs a case; its chunks and its batch must give the bits of the whole. */
export async function outcomeOf(golden: Golden, evaluator: Evaluator): Promise<Outcome> {
  const [, short, long] = golden.sequences;
  const [logits] = await evaluator.allLogits([long], { chunk: MAX_ROWS });
  const routing = await evaluator.routing();
  const [chunked] = await evaluator.allLogits([long], { chunk: 7 });
  assertSameBits(chunked, logits, "chunks of 7");
  evaluator.truncate(0, 0);
  evaluator.truncate(1, 0);
  const entries = [short, long].map((ids, sequence) => ({ sequence, ids }));
  const [, beside] = await evaluator.step(entries, { logits: "all" });
  assertSameBits(beside, logits, "the second of a batch");
  const last = await evaluator.prefill(long, { chunk: 33 });
  assertSameBits(last, logits.slice(-last.length), "the last token's logits");
  const greedy = await evaluator.greedy(last, { count: GREEDY });
  return { logits, routing, greedy, decodeRouting: await evaluator.routing() };
}

export function assertSameOutcome(actual: Outcome, expected: Outcome): void {
  assertSameBits(actual.logits, expected.logits, "logits");
  for (const what of ["routing", "decodeRouting"] as const) {
    assertEquals(actual[what].length, expected[what].length, what);
    for (const [i, layer] of actual[what].entries()) {
      const label = `${what} of layer ${layer.layer}`;
      assertEquals(layer.experts, expected[what][i].experts, label);
      assertSameBits(layer.weights, expected[what][i].weights, label);
    }
  }
  assertEquals(actual.greedy, expected.greedy);
}
