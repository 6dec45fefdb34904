import { assert, assertEquals, assertMatch } from "@std/assert";
import { formatExpertKernels, measureExpertKernels } from "../../src/bench/expert_kernels.ts";
import { madeUp } from "../../src/bench/made_up.ts";

Deno.test("routed experts can be measured alone, beside what plain loops do", async () => {
  const figures = await measureExpertKernels({
    types: ["Q8_0", "Q4_K"],
    threads: 1,
    activations: "q8",
    memoryBytes: 1,
    measurements: 1,
    probeBytes: 1 << 20,
  });
  assertEquals(figures.map(({ type }) => type), ["Q8_0", "Q4_K"]);
  for (const figure of figures) {
    assert(figure.bandwidth.median > 0 && figure.decodeBytesPerSecond.median > 0);
    assert(figure.prefillMacsPerSecond.median > 0 && figure.hotMacsPerSecond.median > 0);
  }
  const lines = formatExpertKernels(figures).split("\n");
  assertMatch(lines[0], /^experts .* 64 tokens an expert GMAC\/s/);
  assertMatch(lines[1], /^Q8_0 +1 +q8 .* %$/);
});

Deno.test("a made-up matrix is the same bytes in whatever pieces it is read", async () => {
  const tensor = madeUp({ type: "Q8_0", rows: 64, cols: 2048 });
  const whole = new Uint8Array(64 * 2048 / 32 * 34);
  await tensor.read(0, whole);
  assert(whole.every((byte) => byte >= 0x11 && byte <= 0x2f));
  assert(new Set(whole).size > 20);
  for (const [offset, length] of [[1, 10], [65_500, 100], [70_000, 69_000]]) {
    const part = new Uint8Array(length);
    await tensor.read(offset, part);
    assertEquals(part, whole.slice(offset, offset + length));
  }
});
