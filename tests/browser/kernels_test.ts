/**
 * The GPU's kernels in a browser, whose checks are stricter than Deno's: Chromium with its software adapter,
 * and no more than WebGPU demands of every adapter.
 */

import { assertEquals } from "@std/assert";
import { LEAST_LIMITS } from "../backend/_kernels.ts";
import { pageTest } from "./_chromium.ts";

/**
 * Of the suite, what tries every kind of kernel with every type of weights; comparing bits takes as many
 * kernels again. Of some tests each so-manieth step is taken: a second or more goes into each kernel.
 */
const TRIED: readonly (readonly [name: RegExp, every: number])[] = [
  [/embed gives/, 1],
  [/rmsNorm is right/, 1],
  [/gatherRows copies/, 1],
  [/linear is right/, 1],
  [/gatedLinear is right/, 3],
  [/experts add/, 3],
  [/one expert serves many rows/, 1],
  [/the gate chooses/, 3],
  [/: attention is right over paged/, 5],
  [/latent attention is right over paged/, 4],
  [/pages of .* in q8 come back/, 1],
  [/the largest logit is chosen/, 1],
  [/ties at every border go by id/, 1],
];

pageTest("kernels of every op and type are right", async (page, t) => {
  const names = await page.call("declare", LEAST_LIMITS);
  for (const [pattern, every] of TRIED) {
    for (const name of names.filter((name) => pattern.test(name))) {
      await t.step(
        name,
        async () => assertEquals((await page.call("run", name, every)).errors, []),
      );
    }
  }
});
