import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { parseSize } from "../../src/cli/flags.ts";
import { main } from "../../src/cli/plan.ts";
import { FormatError, OptionError } from "../../src/errors.ts";
import { sharedFolder } from "../support/fixtures.ts";
import { recordedIo, TINY_MODEL } from "./_io.ts";

const shared = sharedFolder();

Deno.test({
  name: "plan of DeepSeek-R1's configuration says 671B, 37B and how they are counted",
  ignore: shared === undefined,
  fn: async () => {
    const io = recordedIo();
    const config = `${shared}/data/deepseek_r1_config.json`;
    const flags = ["--memory", "64GiB", "--bandwidth", "100", "--quant", "F8,Q4_K"];
    assertEquals(await main(["--config", config, ...flags], io), 0);
    for (
      const part of [
        "256 routed experts a layer, 8 a token, published as fp8",
        "671.03B parameters in all (671026419200), 36.63B active (36625625600)",
        "adds 11.61B",
        "684.49B with them",
        "With the whole table 37.55B",
        "669.17B in all, 35.70B active",
        "576 numbers a token and layer (latent and rope key)",
        "71.1 times as much",
      ]
    ) assertStringIncludes(io.out(), part);
    assertStringIncludes(io.out(), "2347 of 14848 experts (15.8 %)");
  },
});

Deno.test("plan --json of a model file counts its own tensors and bytes", async () => {
  const io = recordedIo();
  await main(["--config", TINY_MODEL, "--json", "--context", "100"], io);
  const plan = JSON.parse(io.out());
  assertEquals(plan.parameters.total, 199296);
  assertEquals(plan.parameters.mtp, null);
  assertEquals(plan.storages[0].storage, "file");
  assertEquals(plan.cache.bytesPerToken, 3 * 2 * 2 * 32 * 4);
  assertEquals(plan.storages[0].readPerToken.cache, 100 * plan.cache.bytesPerToken);
  assertEquals(plan.storages[0].tokensPerSecond, null);
});

Deno.test("plan reads the config.json of a folder whose weights are elsewhere", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const config = {
      model_type: "qwen3",
      vocab_size: 10,
      hidden_size: 8,
      intermediate_size: 16,
      num_hidden_layers: 1,
      num_attention_heads: 2,
    };
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(config));
    const io = recordedIo();
    await main(["--config", folder, "--json"], io);
    // Embedding and head, attention with norms of heads of 4, feed-forward, norms.
    const expected = 2 * 80 + (4 * 64 + 8) + 3 * 128 + 3 * 8;
    assertEquals(JSON.parse(io.out()).parameters.total, expected);
    await Deno.writeTextFile(`${folder}/config.json`, "[]");
    await assertRejects(() => main(["--config", folder], recordedIo()), FormatError, "no object");
    const missing = ["--config", `${folder}/other.json`];
    await assertRejects(() => main(missing, recordedIo()), FormatError, "missing");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("plan refuses flags that are no sizes, types or bandwidths", async () => {
  for (
    const [flag, value] of [
      ["--memory", "2G"],
      ["--memory", "0"],
      ["--quant", "Q9"],
      ["--quant", "Q8_0,,F8"],
      ["--bandwidth", "fast"],
      ["--bandwidth", "0"],
    ]
  ) {
    const args = ["--config", TINY_MODEL, flag, value];
    await assertRejects(() => main(args, recordedIo()), OptionError, flag);
  }
  await assertRejects(() => main([], recordedIo()), OptionError, "--config is missing");
});

Deno.test("sizes are read in decimal and binary units", () => {
  const sizes: [string, number | undefined][] = [
    ["2GiB", 2 ** 31],
    ["512 MiB", 2 ** 29],
    ["1.5GB", 1.5e9],
    ["64kB", 64_000],
    ["1KiB", 1024],
    ["1TiB", 2 ** 40],
    ["123", 123],
    ["7B", 7],
    ["0", undefined],
    ["", undefined],
    ["GiB", undefined],
    ["-1GiB", undefined],
    ["1gib", undefined],
    ["1e9", undefined],
    ["9999999TiB", undefined],
  ];
  for (const [text, bytes] of sizes) assertEquals(parseSize(text), bytes, text);
});
