import { assert, assertEquals } from "@std/assert";
import { createWasmBackend } from "../../src/backend/wasm/mod.ts";
import { recordSteps } from "../../src/experts/record.ts";
import type { TraceStep } from "../../src/experts/trace.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { argmax, Evaluator } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import { goldens } from "../model/_goldens.ts";

const GOLDEN = goldens().find(({ id }) => id === "models/deepseek_v3")!;
const PROMPT = GOLDEN.sequences[2];

interface Recorded {
  readonly steps: readonly TraceStep[];
  readonly logits: readonly Float32Array[];
  /** As the store of paged experts has counted them, layer by layer. */
  readonly predictions: readonly { readonly made: number; readonly right: number }[];
}

/** Records a prompt and six tokens of an answer; experts are paged and always looked ahead to. */
async function record({ foresee, chunk }: { foresee: boolean; chunk: number }): Promise<Recorded> {
  const source = await openCheckpoint(GOLDEN.path);
  const backend = await createWasmBackend({
    threads: 1,
    activations: "f32",
    paging: { cacheBytes: 2 ** 18, lookAhead: true },
  });
  try {
    const model = await loadModel({ source, backend, maxRows: chunk, maxLogitRows: 1, foresee });
    const limits = { maxRows: chunk, sequences: 1, tokens: PROMPT.length + 6 };
    const evaluator = new Evaluator({ model, backend, ...limits });
    const logits: Float32Array[] = [];
    const steps = await Array.fromAsync(recordSteps({
      evaluator,
      ids: PROMPT,
      chunk,
      tokens: 6,
      choose: (last) => {
        logits.push(last);
        return argmax(last);
      },
      isEnd: () => false,
    }));
    const predictions = backend.expertTraffic().map(({ predictions }) => predictions);
    return { steps, logits, predictions };
  } finally {
    backend.close();
    source.close();
  }
}

Deno.test("what is recorded as foreseen is what paging looks ahead to", async () => {
  const { steps, predictions } = await record({ foresee: true, chunk: 1 });
  assertEquals(steps.length, PROMPT.length + 6);
  for (const [layer, counted] of predictions.entries()) {
    let [made, right] = [0, 0];
    for (const { experts, predicted } of steps) {
      made += predicted![layer].length;
      right += predicted![layer].filter((id) => experts[layer].includes(id)).length;
    }
    assertEquals({ made, right }, counted, `layer ${layer}`);
    // Nothing is foreseen for the first layer.
    assert(layer === 0 ? made === 0 : right > 0 && right < made, `${right} of ${made}`);
  }
});

Deno.test("foreseeing changes neither routing nor logits, in chunks as by single tokens", async () => {
  for (const chunk of [1, 5]) {
    const [seeing, blind] = [
      await record({ foresee: true, chunk }),
      await record({ foresee: false, chunk }),
    ];
    assertEquals(seeing.logits, blind.logits);
    assertEquals(
      seeing.steps.map(({ experts }) => experts),
      blind.steps.map(({ experts }) => experts),
    );
    assert(seeing.steps.every(({ predicted }) => predicted!.slice(1).every((ids) => ids.length)));
    assert(blind.steps.every(({ predicted }) => predicted!.every((ids) => ids.length === 0)));
  }
});
