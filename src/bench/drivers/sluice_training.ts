/**
 * Trains the dense model of `../training_peers.ts` with our WebAssembly kernels. Argument: the model as
 * JSON (`PeerModel`).
 */

import { createWasmTrainingBackend } from "../../backend/wasm/training/mod.ts";
import { loadModel } from "../../model/registry.ts";
import { initialWeights } from "../../training/initial_weights.ts";
import { TapeBackend } from "../../training/tape/mod.ts";
import { Trainer } from "../../training/trainer.ts";
import { type PeerModel, RULE } from "../training_model.ts";
import { llamaConfig, parametersOf } from "../training_shapes.ts";
import { serveTraining } from "./_training.ts";

const model: PeerModel = JSON.parse(Deno.args[0]);

async function openTrainer(): Promise<Trainer> {
  const { width: hidden, vocabulary, samples, length, threads } = model;
  const rows = samples * length;
  const config = { ...llamaConfig({ ...model, hidden }), vocab_size: vocabulary };
  const tape = new TapeBackend(await createWasmTrainingBackend({ threads }));
  const source = initialWeights(config, { seed: 1 });
  const loaded = await loadModel({ source, backend: tape, maxRows: rows, maxLogitRows: rows });
  const { beta1, beta2, eps, decay, maxNorm } = RULE;
  return new Trainer({ tape, model: loaded }, {
    shape: { rows, logitRows: rows, sequences: samples },
    objective: { kind: "likelihood" },
    rule: { kind: "adamw", beta1, beta2, eps },
    parameters: { weightDecay: decay },
    maxNorm,
  });
}

await serveTraining(async () => {
  const trainer = await openTrainer();
  return {
    version: `${model.threads} threads`,
    parameters: parametersOf(trainer),
    open: ({ inputs, targets }) => {
      const share = 1 / (model.samples * model.length);
      const weights = new Float64Array(model.length).fill(share);
      const batch = inputs.map((ids, i) => ({ inputs: ids, targets: targets[i], weights }));
      return async () => {
        trainer.step([batch], { rate: RULE.rate });
        return (await trainer.totals()).loss;
      };
    },
  };
});
