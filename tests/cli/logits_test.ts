import { assert, assertEquals, assertRejects } from "@std/assert";
import { main } from "../../src/cli/logits.ts";
import { CapacityError, OptionError } from "../../src/errors.ts";
import { SafetensorsArrays } from "../../src/formats/safetensors/arrays.ts";
import { ROOT } from "../support/fixtures.ts";

const MODEL = new URL("tests/data/goldens/gguf/qwen3/qwen3.q8_0.gguf", ROOT).pathname;
const GOLDEN = JSON.parse(
  Deno.readTextFileSync(new URL("tests/data/goldens/gguf/qwen3/golden.json", ROOT)),
);

/** What the command prints, parsed. */
async function run(
  ...args: string[]
): Promise<{ top10: [number, number][][]; greedy: number[][] }> {
  let text = "";
  const stdout = {
    writeSync(bytes: Uint8Array) {
      text += new TextDecoder().decode(bytes);
      return bytes.length;
    },
  };
  assertEquals(await main(args, { stdout }), 0);
  return JSON.parse(text);
}

for (const backend of [["reference"], ["wasm", "--activations", "f32", "--threads", "1"]]) {
  Deno.test(`logits on ${backend[0]} prints the recorded tokens and writes every position`, async () => {
    const folder = await Deno.makeTempDir();
    try {
      const [idsFile, out] = [`${folder}/ids.json`, `${folder}/logits.safetensors`];
      await Deno.writeTextFile(idsFile, JSON.stringify(GOLDEN.sequences));
      const flags = ["--model", MODEL, "--backend", ...backend, "--greedy", "16", "--chunk", "7"];
      const report = await run(...flags, "--ids-file", idsFile, "--out", out);
      assertEquals(report.greedy, GOLDEN.files.q8_0.greedy_dequant);
      const written = new SafetensorsArrays(await Deno.readFile(out));
      assertEquals(written.names, ["seq0.logits", "seq1.logits", "seq2.logits"]);
      assertEquals(written.shape("seq2.logits"), [70, 512]);
      const last = written.get("seq2.logits", "F32").slice(-512);
      for (const [token, logit] of report.top10[2]) assertEquals(last[token], logit);
      const [[, largest]] = report.top10[2];
      assertEquals(largest, Math.max(...last));
      assert(report.top10[2].every(([, logit], i, all) => i === 0 || logit <= all[i - 1][1]));
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

Deno.test("logits takes the ids of one sequence from the command line", async () => {
  const ids = GOLDEN.sequences[1].join(",");
  const { top10, greedy } = await run("--model", MODEL, "--backend", "reference", "--ids", ids);
  assertEquals([top10.length, top10[0].length], [1, 10]);
  assertEquals(greedy, [[]]);
});

Deno.test("logits refuses ids that are missing, given twice, no list, or outside the vocabulary", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const file = `${folder}/ids.json`;
    const refused = async (flags: string[], message: string) => {
      const args = ["--model", MODEL, "--backend", "reference", ...flags];
      await assertRejects(() => main(args), OptionError, message);
    };
    await refused([], "neither --ids nor --ids-file is given");
    await refused(["--ids", "1", "--ids-file", file], "both --ids and --ids-file are given");
    await refused(
      ["--ids", "1,x"],
      'cannot evaluate logits: --ids is "1,x", must be whole numbers',
    );
    await refused(
      ["--ids", "1,512"],
      "sequence 0 holds token 512, must be below the vocabulary's 512",
    );
    await refused(["--ids-file", file], "--ids-file cannot be read (NotFound)");
    const out = `${folder}/nowhere/logits.safetensors`;
    await refused(["--ids", "1", "--out", out], "--out cannot be written (NotFound)");
    for (const text of ["", "{}", "[1, 2]", "[]", "[[]]", "[[1.5]]", "[[-1]]", '[["1"]]']) {
      await Deno.writeTextFile(file, text);
      await refused(["--ids-file", file], "must be a JSON list of lists of token ids");
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("logits refuses more tokens than the model's context", async () => {
  const args = ["--model", MODEL, "--backend", "reference", "--ids", "1,2", "--greedy", "255"];
  await assertRejects(
    () => main(args),
    CapacityError,
    "the longest sequence is 2 + 255 tokens, must fit the model's context of 256",
  );
});
