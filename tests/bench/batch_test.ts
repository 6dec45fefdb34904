import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { type BatchDriver, formatBatches, measureBatches } from "../../src/bench/batch.ts";
import type { Request } from "../../src/bench/wire.ts";

const WORKLOAD = {
  vocabSize: 512,
  contextLength: 256,
  fileBytes: 4e6,
  parameters: 40e6,
  activeParameters: 12e6,
  bytesPerToken: 3e6,
  macsPerToken: 1e6,
  outputMacs: 8e6,
  routed: { layers: 2, experts: 32, topK: 4, bytes: 16e6 },
};

/** A driver whose steps take 10 ms and 1 ms for each sequence, and read two experts for each. */
function fakeDriver() {
  const asked: Request[] = [];
  let closed = 0;
  const driver: BatchDriver = {
    run(request) {
      asked.push(request);
      const sequences = request.sequences!;
      const steps = request.generate - 1;
      return Promise.resolve({
        promptTokens: request.prompt.length * sequences,
        prefillSeconds: 1,
        firstSeconds: 1,
        decodeTokens: steps * sequences,
        decodeSeconds: steps * (0.01 + 0.001 * sequences),
        expertsRead: 2 + 2 * sequences,
      });
    },
    close: () => Promise.resolve(void closed++),
  };
  return { asked, driver, closed: () => closed };
}

const OPTIONS = {
  model: "m.gguf",
  workload: WORKLOAD,
  threads: 2,
  activations: "q8",
  sequences: [1, 10],
  prompt: 16,
  context: 64,
  decode: 8,
  runs: 2,
} as const;

Deno.test("numbers of sequences take turns, after a round that does not count", async () => {
  const { asked, driver, closed } = fakeDriver();
  const figures = await measureBatches({ ...OPTIONS, start: () => Promise.resolve(driver) });
  assertEquals(asked.map(({ sequences }) => sequences), [1, 10, 1, 10, 1, 10]);
  assert(asked.every(({ prompt, generate }) => prompt.length === 16 && generate === 9));
  assertEquals(closed(), 1);
  assertEquals(figures.map(({ decode }) => [Math.round(decode.median), decode.runs]), [
    [91, 2],
    [500, 2],
  ]);
});

Deno.test("a batch counts an expert's bytes once a step", async () => {
  const { driver } = fakeDriver();
  const figures = await measureBatches({ ...OPTIONS, start: () => Promise.resolve(driver) });
  const [one, ten] = figures;
  assertEquals([one.expertsRead, one.expertsChosen], [4, 4]);
  assertEquals([ten.expertsRead, ten.expertsChosen], [22, 40]);
  assertEquals(Math.round(one.bytesPerSecond / 1e6), Math.round(3 / 0.011));
  // 18 experts of two layers more than one token's: 18 / 32 of 16 MB.
  assertEquals(Math.round(ten.bytesPerSecond / 1e6), Math.round((3 + 9) / 0.02));
  const text = formatBatches(figures, { workload: WORKLOAD });
  assertStringIncludes(text, "experts read of 32");
  assert(/^10 +2 +q8 +500 \(500-500\) +5\.50 x +0\.600 +22\.0 +40$/m.test(text), text);
});

Deno.test("a driver that breaks is closed, and its error is the caller's", async () => {
  const { driver, closed } = fakeDriver();
  driver.run = () => Promise.reject(new Error("it broke"));
  let message = "";
  try {
    await measureBatches({ ...OPTIONS, start: () => Promise.resolve(driver) });
  } catch (error) {
    message = (error as Error).message;
  }
  assertEquals([message, closed()], ["it broke", 1]);
});
