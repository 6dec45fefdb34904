import { assert, assertEquals } from "@std/assert";
import { benchTraining } from "../../src/bench/training.ts";
import { madeUpSamples } from "../../src/bench/training_shapes.ts";

Deno.test("steps of training are timed, and useful work is six operations a token and active parameter", async () => {
  const figures = await benchTraining({
    ...{ backend: "wasm", shape: "100k", vocabulary: 64, tokens: 64, length: 20, steps: 2 },
    ...{ storage: "f32", threads: 1, checkpoint: false, kernels: false },
  });
  const { stepSeconds, hostSeconds, tokensPerSecond, teraflops, activeParameters } = figures;
  assert(stepSeconds > 0 && hostSeconds <= stepSeconds && figures.keptBytes > 0);
  assert(figures.parameters > activeParameters);
  const close = (a: number, b: number) => assert(Math.abs(a - b) < 1e-6 * b, `${a} and ${b}`);
  close(tokensPerSecond * stepSeconds, 64);
  close(teraflops * 1e12, 6 * activeParameters * tokensPerSecond);
  assert(figures.loss > 3 && figures.loss < 6, `${figures.loss}`);
});

Deno.test("made-up samples fill a step, the same each time", () => {
  const samples = madeUpSamples({ tokens: 1000, length: 30, vocabulary: 50 });
  const lengths = samples.map(({ inputs }) => inputs.length);
  assertEquals(lengths.reduce((sum, length) => sum + length, 0), 1000);
  assert(lengths.slice(0, -1).every((length) => length >= 15 && length < 45));
  assertEquals(madeUpSamples({ tokens: 1000, length: 30, vocabulary: 50 }), samples);
});

Deno.test("even samples all have the length that is asked for, and fill a step", () => {
  const samples = madeUpSamples({ tokens: 1024, length: 128, vocabulary: 50, even: true });
  assertEquals(samples.map(({ inputs }) => inputs.length), new Array(8).fill(128));
});
