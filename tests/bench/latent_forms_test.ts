import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { crossing, formatLatentForms, measureLatentForms } from "../../src/bench/latent_forms.ts";

const TINY = { name: "tiny", heads: 2, nopeDim: 32, ropeDim: 32, valueDim: 32, latentDim: 64 };

Deno.test("both forms of latent attention can be measured for chunks behind contexts", async () => {
  const figures = await measureLatentForms({
    threads: 1,
    activations: "q16",
    shapes: [TINY],
    rows: [4, 8],
    cached: [0, 70],
    runs: 1,
  });
  assertEquals(figures.map(({ rows, cached }) => [cached, rows]), [[0, 4], [0, 8], [70, 4], [
    70,
    8,
  ]]);
  for (const { absorbed, expanded, ratio } of figures) {
    assert(absorbed.median > 0 && expanded.median > 0);
    assertEquals(ratio, absorbed.median / expanded.median);
  }
  const lines = formatLatentForms(figures).split("\n");
  assertEquals(lines[0], "tiny: q16, 1 thread");
  assertMatch(lines[2], /^4 +0 /);
  assertStringIncludes(lines.at(-1)!, "behind 70 positions the expanded form is faster ");
});

Deno.test("forms cross between the last chunk that is faster absorbed and the next", () => {
  const at = (...ratios: number[]) =>
    crossing(ratios.map((ratio, i) => ({ rows: 16 * 2 ** i, ratio })));
  assertEquals(at(0.25, 0.5, 2), 45);
  assertEquals(at(0.25, 0.5, 2 ** 0.5), Math.round(32 * 2 ** (2 / 3)));
  assertEquals(at(2, 0.5, 2), 45);
  assertEquals(at(1.5, 2), 16);
  assertEquals(at(0.5, 0.9), null);
});
