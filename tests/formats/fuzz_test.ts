/** A million mutated headers per format: nothing but FormatError, no hang, no runaway memory. */

import { assert, assertEquals, assertGreater, assertLess, assertThrows } from "@std/assert";
import { fuzz, type FuzzFormat, type FuzzOptions, main } from "../../src/cli/fuzz.ts";
import { OptionError } from "../../src/errors.ts";
import type { FuzzRun } from "./_fuzz_worker.ts";

/** Inputs of a format, in as many runs side by side. */
const COUNT = 1_000_000;
const RUNS = 2;
const SEED = 20_261_123;
const MAX_MS = 2000;
const MAX_GROWTH_BYTES = 256 * 1024 * 1024;

/** One run in a thread of its own. */
async function runOf(options: FuzzOptions): Promise<FuzzRun> {
  const url = new URL("./_fuzz_worker.ts", import.meta.url);
  const worker = new Worker(url, { type: "module" });
  try {
    return await new Promise((resolve, reject) => {
      worker.onmessage = ({ data }: MessageEvent<FuzzRun>) => resolve(data);
      worker.onerror = (event) => {
        event.preventDefault();
        reject(new Error(`the fuzzing thread has failed: ${event.message}`));
      };
      worker.postMessage(options);
    });
  } finally {
    worker.terminate();
  }
}

for (const format of ["gguf", "safetensors"] as const satisfies readonly FuzzFormat[]) {
  Deno.test(`a million mutated ${format} headers end in FormatError or are read`, async () => {
    const runs = await Promise.all(
      Array.from(
        { length: RUNS },
        (_, i) => runOf({ format, count: COUNT / RUNS, seed: SEED + i }),
      ),
    );
    for (const { result, growth } of runs) {
      assertEquals(result.failures, []);
      assertEquals(result.accepted + result.refused, COUNT / RUNS);
      // The mutations must reach deep: some files stay good, many different checks complain.
      assertGreater(result.accepted, COUNT / RUNS / 100);
      assertGreater(result.complaints, 30);
      assertLess(result.slowestMs, MAX_MS);
      assertLess(growth, MAX_GROWTH_BYTES);
    }
  });
}

Deno.test("the same seed gives the same run and another seed another one", () => {
  const run = (seed: number) => {
    const { accepted, refused } = fuzz({ format: "gguf", count: 5000, seed });
    return [accepted, refused];
  };
  assertEquals(run(1), run(1));
  assert(run(1)[0] !== run(2)[0]);
});

Deno.test("fuzz refuses arguments it does not know", () => {
  for (const args of [["--format", "onnx"], ["--count", "-1"], ["--seed"], ["x", "1"]]) {
    assertThrows(() => main(args), OptionError, "cannot fuzz");
  }
});
