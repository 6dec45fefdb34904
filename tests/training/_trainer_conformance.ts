/** What a trainer does on any backend that trains. */

import { assert, assertEquals } from "@std/assert";
import type { TrainingBackend } from "../../src/backend/training.ts";
import { Evaluator } from "../../src/model/evaluate.ts";
import { TapeBackend } from "../../src/training/tape/mod.ts";
import { Trainer, type TrainerOptions } from "../../src/training/trainer.ts";
import { assertSameBits } from "../backend/_harness.ts";
import { DENSE, MIXTURE, randomSequences, tinyModel } from "./_tiny.ts";
import type { TrainingConformance } from "./_update_conformance.ts";

async function trainerOf(
  inner: TrainingBackend,
  options: Partial<TrainerOptions> & { config?: typeof DENSE | typeof MIXTURE } = {},
) {
  const { config = MIXTURE, ...rest } = options;
  const tape = new TapeBackend(inner);
  const shape = { rows: 40, logitRows: 40, sequences: 5 };
  const model = await tinyModel(config, { tape, maxRows: shape.rows });
  const trainer = new Trainer({ tape, model }, {
    ...{ shape, objective: { kind: "likelihood" }, maxNorm: 1 },
    rule: { kind: "adamw", beta1: 0.9, beta2: 0.95, eps: 1e-8 },
    parameters: { weightDecay: 0.01 },
    balance: { over: "sequence", alpha: 0.01 },
    ...rest,
  });
  return { inner, tape, model, trainer };
}

export function trainerTests({ name, open }: TrainingConformance): void {
  for (const [kind, config] of [["dense", DENSE], ["mixture", MIXTURE]] as const) {
    Deno.test(`${name}: a ${kind} model learns a batch by heart, to the same bits each time`, async () => {
      const batch = randomSequences([12, 9, 14], { seed: 21 });
      const run = async () => {
        const inner = await open();
        const { trainer } = await trainerOf(inner, { config });
        const losses: number[] = [];
        for (let step = 0; step < 30; step++) {
          trainer.step([batch], { rate: 1e-2, biasRate: 1e-3 });
          losses.push((await trainer.totals()).loss);
        }
        const values = await inner.readParameter(trainer.parameters.trained[0], "value");
        inner.close();
        return { losses, values };
      };
      const [first, second] = [await run(), await run()];
      const { losses } = first;
      assert(losses[29] < 0.5 * losses[0], `from ${losses[0]} to ${losses[29]}`);
      assertEquals(second.losses, losses);
      assertSameBits(second.values, first.values, "the first parameter");
    });
  }

  Deno.test(`${name}: gradients of micro-batches add up to those of one batch`, async () => {
    const sequences = randomSequences([12, 9, 14], { seed: 22 });
    const gradients = async (batches: (typeof sequences)[]) => {
      const inner = await open();
      const { trainer } = await trainerOf(inner);
      trainer.step(batches, { rate: 0 });
      const totals = await trainer.totals();
      const list: Float32Array[] = [];
      for (const parameter of trainer.parameters.trained) {
        list.push(await inner.readParameter(parameter, "gradient"));
      }
      inner.close();
      return { totals, list };
    };
    const [a, b, c] = sequences;
    const [whole, parts] = [await gradients([[a, b, c]]), await gradients([[a, c], [b]])];
    assertEquals(parts.totals.tokens, whole.totals.tokens);
    assert(Math.abs(parts.totals.loss - whole.totals.loss) < 1e-5);
    assert(Math.abs(parts.totals.balance - whole.totals.balance) < 1e-6);
    for (const [i, expected] of whole.list.entries()) {
      const largest = expected.reduce((most, g) => Math.max(most, Math.abs(g)), 0);
      expected.forEach((g, at) =>
        assert(Math.abs(parts.list[i][at] - g) <= 1e-5 * largest + 1e-9, `parameter ${i} at ${at}`)
      );
    }
  });

  Deno.test(`${name}: rollouts and trainer agree on log-probabilities to the bit`, async () => {
    for (const config of [DENSE, MIXTURE]) {
      const inner = await open();
      const { tape, model, trainer } = await trainerOf(inner, { config });
      const sequences = randomSequences([12, 9, 14], { seed: 23 });
      // A step first, so that the weights are not those that were uploaded.
      trainer.step([sequences], { rate: 1e-2 });
      trainer.begin();
      trainer.accumulate(sequences);
      const trained = await inner.read(trainer.buffers.logProbs, { rows: 35 });
      // As an engine goes on with answers: one token a step, three sequences side by side.
      const evaluator = new Evaluator({
        model,
        backend: tape,
        maxRows: 3,
        sequences: 3,
        tokens: 64,
      });
      const rolled = sequences.map(() => [] as number[]);
      for (let at = 0; at < 14; at++) {
        const running = [0, 1, 2].filter((s) => at < sequences[s].inputs.length);
        const logits = await evaluator.step(
          running.map((s) => ({ sequence: s, ids: [sequences[s].inputs[at]] })),
          { logits: "all" },
        );
        for (const [i, s] of running.entries()) {
          rolled[s].push(await logProbOf(inner, logits[i], sequences[s].targets[at]));
        }
      }
      assertSameBits(Float32Array.from(rolled.flat()), trained, config.architectures[0]);
      inner.close();
    }
  });

  Deno.test(`${name}: replayed routing is the gate's own where it says so, and another where not`, async () => {
    const inner = await open();
    const { trainer, model, tape } = await trainerOf(inner);
    const { trainer: replaying } = await trainerOf(inner, { replayRouting: true });
    const [sequence] = randomSequences([8], { seed: 24 });
    trainer.begin();
    trainer.accumulate([sequence]);
    const own = await inner.read(trainer.buffers.logProbs, { rows: 8 });
    const evaluator = new Evaluator({ model, backend: tape, maxRows: 8, sequences: 1, tokens: 64 });
    await evaluator.step([{ sequence: 0, ids: Array.from(sequence.inputs) }], { logits: "none" });
    const chosen = (await evaluator.routing()).map(({ experts }) => experts);
    const logProbs = async (given: readonly Int32Array[]) => {
      replaying.begin();
      replaying.accumulate([{ ...sequence, chosen: given }]);
      return await inner.read(replaying.buffers.logProbs, { rows: 8 });
    };
    assertSameBits(await logProbs(chosen), own, "the gates' own choices");
    // The next expert in the place of each.
    const others = chosen.map((ids) => ids.map((id) => (id + 1) % MIXTURE.n_routed_experts));
    const changed = await logProbs(others);
    assert(changed.some((value, i) => Math.abs(value - own[i]) > 1e-4));
    inner.close();
  });
}

/** The log-probability of a token as the backend computes it. */
async function logProbOf(
  backend: TrainingBackend,
  logits: Float32Array,
  target: number,
): Promise<number> {
  const create = (kind: "f32" | "i32", width: number) =>
    backend.createBuffer({ kind, rows: 1, width });
  const [from, out, targets] = [create("f32", logits.length), create("f32", 1), create("i32", 1)];
  backend.write(from, logits);
  backend.write(targets, Int32Array.of(target));
  backend.submit(
    backend.recordTraining((ops) =>
      ops.tokenLogProbs({ logits: from, targets, temperature: 1, out, rows: 1 })
    ),
  );
  return (await backend.read(out))[0];
}
