import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { UnsupportedOpError } from "../../src/errors.ts";
import type { MetadataValue } from "../../src/formats/tensor_source.ts";
import { ConfigSection } from "../../src/model/config_reader.ts";
import {
  applyFrequencyFactors,
  fillCosSin,
  readScaling,
  ropeFrequencies,
} from "../../src/model/rope.ts";
import { sharedFolder } from "../support/fixtures.ts";

const shared = sharedFolder();

/** Models whose golden.json states frequencies: every kind of scaling there is. */
const SCALED = [
  "llama_smollm2",
  "llama3_r1_distill",
  "deepseek_v3",
  "deepseek_v3_mscale_split",
  "gpt_oss",
];

for (const name of SCALED) {
  const folder = `${shared}/fixtures/models/${name}`;
  Deno.test({
    name: `rotary frequencies and factor of ${name} are the recorded ones`,
    ignore: shared === undefined,
    fn: () => {
      const config = JSON.parse(Deno.readTextFileSync(`${folder}/config.json`));
      const { rope } = JSON.parse(Deno.readTextFileSync(`${folder}/golden.json`));
      const dim = config.qk_rope_head_dim ?? config.head_dim ??
        config.hidden_size / config.num_attention_heads;
      const section = config.rope_scaling ?? {};
      const scaling = readScaling(new ConfigSection(new Map(Object.entries(section))), {
        contextLength: config.max_position_embeddings,
      });
      const { inverseFrequencies, cosSinScale } = ropeFrequencies({
        dim,
        theta: config.rope_theta,
        scaling,
      });
      assertEquals(inverseFrequencies.length, rope.inv_freq.length);
      inverseFrequencies.forEach((f, i) => {
        assertAlmostEquals(f, rope.inv_freq[i], 1e-6 * rope.inv_freq[i], `pair ${i}`);
      });
      assertAlmostEquals(cosSinScale, rope.cos_sin_scale, 1e-6);
    },
  });
}

function scalingOf(fields: Record<string, MetadataValue>) {
  return readScaling(new ConfigSection(new Map(Object.entries(fields))), { contextLength: 4096 });
}

Deno.test("a rotary scaling that is not implemented is refused by name", () => {
  assertThrows(
    () => scalingOf({ rope_type: "longrope" }),
    UnsupportedOpError,
    'rope_type is "longrope", must be none, linear, llama3 or yarn',
  );
});

Deno.test("linear scaling divides every frequency by the factor, under the old key and the new", () => {
  for (const key of ["type", "rope_type"]) {
    const scaling = scalingOf({ [key]: "linear", factor: 4 });
    const { inverseFrequencies } = ropeFrequencies({ dim: 4, theta: 100, scaling });
    assertEquals([...inverseFrequencies], [Math.fround(1 / 4), Math.fround(0.1 / 4)]);
  }
});

Deno.test("cosines come before sines, each position in its own row", () => {
  const rope = {
    dim: 4,
    pairing: "halves" as const,
    ...ropeFrequencies({ dim: 4, theta: 100, scaling: { type: "none" } }),
  };
  const out = new Float32Array(8);
  fillCosSin(rope, { positions: [0, 3], out });
  assertEquals([...out.slice(0, 4)], [1, 1, 0, 0]);
  const expected = [Math.cos(3), Math.cos(0.3), Math.sin(3), Math.sin(0.3)];
  expected.forEach((value, i) => assertAlmostEquals(out[4 + i], value, 1e-6));
});

Deno.test("frequency divisors of a file apply pair by pair and must be positive and as many", () => {
  const rope = {
    dim: 4,
    pairing: "interleaved" as const,
    cosSinScale: 1,
    inverseFrequencies: Float32Array.of(1, 0.5),
  };
  const scaled = applyFrequencyFactors(rope, Float32Array.of(1, 8));
  assertEquals([...scaled.inverseFrequencies], [1, 0.0625]);
  assert(rope.inverseFrequencies[1] === 0.5, "the given embedding is not changed");
  assertThrows(() => applyFrequencyFactors(rope, Float32Array.of(1)), Error, "is 1, must be 2");
  for (const bad of [0, -1, NaN, Infinity]) {
    assertThrows(
      () => applyFrequencyFactors(rope, Float32Array.of(1, bad)),
      Error,
      "element 1 of rope_freqs.weight",
    );
  }
});
