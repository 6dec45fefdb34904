import { createWasmTrainingBackend } from "../../src/backend/wasm/training/mod.ts";
import { TapeBackend } from "../../src/training/tape/mod.ts";
import { Trainer } from "../../src/training/trainer.ts";
import { assertSameBits } from "../backend/_harness.ts";
import { DENSE, MIXTURE, randomSequences, tinyModel } from "./_tiny.ts";
import { trainingConformance } from "./conformance.ts";

for (const threads of [1, 2]) {
  trainingConformance({
    name: `wasm, ${threads} thread${threads === 1 ? "" : "s"}`,
    open: () => createWasmTrainingBackend({ threads }),
  });
}

Deno.test("wasm: parameters have the same bits on one thread and on two", async () => {
  for (const config of [DENSE, MIXTURE]) {
    const trained = async (threads: number) => {
      const inner = await createWasmTrainingBackend({ threads });
      const tape = new TapeBackend(inner);
      const shape = { rows: 120, logitRows: 120, sequences: 9 };
      const model = await tinyModel(config, { tape, maxRows: shape.rows });
      const trainer = new Trainer({ tape, model }, {
        ...{ shape, objective: { kind: "likelihood" }, maxNorm: 1 },
        rule: { kind: "lamb", beta1: 0.9, beta2: 0.99, eps: 1e-6 },
        parameters: { weightDecay: 0.01 },
        balance: { over: "sequence", alpha: 0.01 },
      });
      const batch = randomSequences([13, 20, 1, 30, 14, 9, 25, 5], { seed: 41 });
      for (let step = 0; step < 4; step++) trainer.step([batch], { rate: 1e-2, biasRate: 1e-3 });
      const values: Float32Array[] = [];
      for (const parameter of trainer.parameters.trained) {
        values.push(await inner.readParameter(parameter, "value"));
      }
      inner.close();
      return values;
    };
    const [one, two] = [await trained(1), await trained(2)];
    for (const [i, values] of one.entries()) assertSameBits(two[i], values, `parameter ${i}`);
  }
});
