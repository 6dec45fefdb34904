/** What a training step asks of a GPU's queue. */

import { assertEquals } from "@std/assert";
import { createWebGpuTrainingBackend } from "../../src/backend/webgpu/training/mod.ts";
import { TapeBackend } from "../../src/training/tape/mod.ts";
import { shareOf, Trainer } from "../../src/training/trainer.ts";
import { assertSameBits } from "../backend/_harness.ts";
import { GPU_SKIPPED, SKIP_NOTE } from "../support/gpu.ts";
import { MIXTURE, randomSequences, tinyModel } from "./_tiny.ts";

const RATES = { rate: 1e-2, biasRate: 1e-3 };

async function openTrainer() {
  const inner = await createWebGpuTrainingBackend();
  const tape = new TapeBackend(inner);
  const shape = { rows: 16, logitRows: 16, sequences: 2 };
  const model = await tinyModel(MIXTURE, { tape, maxRows: shape.rows });
  const trainer = new Trainer({ tape, model }, {
    ...{ shape, objective: { kind: "likelihood" }, maxNorm: 1 },
    rule: { kind: "adamw", beta1: 0.9, beta2: 0.95, eps: 1e-8 },
    parameters: { weightDecay: 0.01 },
    balance: { over: "sequence", alpha: 0.01 },
  });
  return { inner, trainer };
}

/** How often the queue is given work, and buffers are mapped to be read, while `body` runs. */
function countCalls(body: () => void): { submissions: number; reads: number } {
  const { submit } = GPUQueue.prototype;
  const { mapAsync } = GPUBuffer.prototype;
  const counts = { submissions: 0, reads: 0 };
  GPUQueue.prototype.submit = function (this: GPUQueue, ...given) {
    counts.submissions++;
    return submit.apply(this, given);
  };
  GPUBuffer.prototype.mapAsync = function (this: GPUBuffer, ...given) {
    counts.reads++;
    return mapAsync.apply(this, given);
  };
  try {
    body();
  } finally {
    GPUQueue.prototype.submit = submit;
    GPUBuffer.prototype.mapAsync = mapAsync;
  }
  return counts;
}

Deno.test({
  name: `a step on a GPU is one submission for each micro-batch, and reads nothing${SKIP_NOTE}`,
  ignore: GPU_SKIPPED !== undefined,
  async fn() {
    const { inner, trainer } = await openTrainer();
    const [a, b, c] = randomSequences([9, 7, 8], { seed: 31 });
    const step = (batches: (typeof a)[][]) => countCalls(() => trainer.step(batches, RATES));
    assertEquals(step([[a, b]]), { submissions: 1, reads: 0 });
    assertEquals(step([[a], [b], [c]]), { submissions: 3, reads: 0 });
    assertEquals((await trainer.totals()).updates, 2);
    inner.close();
  },
});

Deno.test({
  name: `a step has the bits of its parts, each submitted by itself${SKIP_NOTE}`,
  ignore: GPU_SKIPPED !== undefined,
  async fn() {
    const [a, b, c] = randomSequences([9, 7, 8], { seed: 32 });
    for (const batches of [[[a, b]], [[a], [b, c]]]) {
      const whole = await openTrainer();
      const parts = await openTrainer();
      for (let step = 0; step < 2; step++) {
        whole.trainer.step(batches, RATES);
        parts.trainer.begin();
        for (const batch of batches) parts.trainer.accumulate(batch, shareOf(batches.flat()));
        parts.trainer.apply(RATES);
      }
      assertEquals(await whole.trainer.totals(), await parts.trainer.totals());
      for (const [i, parameter] of whole.trainer.parameters.trained.entries()) {
        const values = await whole.inner.readParameter(parameter, "value");
        const expected = await parts.inner.readParameter(
          parts.trainer.parameters.trained[i],
          "value",
        );
        assertSameBits(values, expected, parameter.names[0]);
      }
      for (const { inner } of [whole, parts]) inner.close();
    }
  },
});
