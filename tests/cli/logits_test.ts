import { assert, assertEquals, assertRejects } from "@std/assert";
import { main } from "../../src/cli/logits.ts";
import { CapacityError, FormatError, OptionError } from "../../src/errors.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { SafetensorsArrays } from "../../src/formats/safetensors/arrays.ts";
import { assertSameRouting } from "../model/_routing.ts";
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

Deno.test("logits that are not numbers are an error instead of an answer", async () => {
  const path = await Deno.makeTempFile({ suffix: ".gguf" });
  try {
    const bytes = Deno.readFileSync(MODEL);
    const source = await openCheckpoint(MODEL);
    const norm = source.tensors.get("output_norm.weight")!;
    const { offset } = source.locate!(norm)!;
    source.close();
    // Finite weights whose products are not.
    new DataView(bytes.buffer).setFloat32(offset, 3e38, true);
    await Deno.writeFile(path, bytes);
    const args = ["--model", path, "--backend", "reference", "--ids", "5,60,200"];
    await assertRejects(
      () => main(args),
      FormatError,
      "must be finite (the model's weights may be damaged)",
    );
  } finally {
    await Deno.remove(path);
  }
});

const MIXTURE = new URL("tests/data/goldens/models/deepseek_v3", ROOT).pathname;

Deno.test("logits writes chosen experts and hidden states beside the logits, under the fixtures' names", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const record = JSON.parse(await Deno.readTextFile(`${MIXTURE}/golden.json`));
    const recorded = new SafetensorsArrays(await Deno.readFile(`${MIXTURE}/golden.safetensors`));
    const [idsFile, out] = [`${folder}/ids.json`, `${folder}/logits.safetensors`];
    const sequences = record.sequences.map(({ ids }: { ids: number[] }) => ids);
    await Deno.writeTextFile(idsFile, JSON.stringify(sequences));
    const flags = ["--model", MIXTURE, "--backend", "reference", "--chunk", "7"];
    await run(...flags, "--ids-file", idsFile, "--out", out, "--routing", "--hidden");
    const written = new SafetensorsArrays(await Deno.readFile(out));
    const { logits_max_abs: tolerance } = record.tolerance;
    for (const [i, ids] of sequences.entries()) {
      const names = written.names.filter((name) => name.startsWith(`seq${i}.`));
      const routers = [1, 2, 3].flatMap((layer) =>
        ["experts", "weights"].map((what) => `seq${i}.router.${layer}.${what}`)
      );
      const hidden = [0, 1, 2, 3, 4].map((layer) => `seq${i}.hidden.${layer}`);
      assertEquals(names, [`seq${i}.logits`, ...routers, ...hidden]);
      assertEquals(written.shape(`seq${i}.router.2.experts`), [ids.length, 4]);
      assertEquals(written.shape(`seq${i}.hidden.4`), [ids.length, 64]);
    }
    for (const name of ["seq1.hidden.0", "seq1.hidden.3", "seq1.hidden.4", "seq2.logits"]) {
      assertClose(written.get(name, "F32"), recorded.get(name, "F32"), { tolerance, name });
    }
    for (const layer of [1, 2, 3]) {
      const name = `seq2.router.${layer}`;
      assertSameRouting({
        topK: 4,
        experts: written.get(`${name}.experts`, "I32"),
        weights: written.get(`${name}.weights`, "F32"),
      }, {
        experts: recorded.get(`${name}.experts`, "I32"),
        weights: recorded.get(`${name}.weights`, "F32"),
      }, { tolerance: 1e-4, what: name });
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

function assertClose(
  actual: Float32Array,
  expected: Float32Array,
  { tolerance, name }: { tolerance: number; name: string },
): void {
  assertEquals(actual.length, expected.length, name);
  for (const [i, value] of actual.entries()) {
    const error = Math.abs(value - expected[i]);
    assert(error <= tolerance, `${name}: value ${i} is off by ${error}`);
  }
}

Deno.test("logits refuses to watch experts or hidden states without a file for them", async () => {
  for (const flag of ["--routing", "--hidden"]) {
    await assertRejects(
      () => main(["--model", MIXTURE, "--backend", "reference", "--ids", "1", flag]),
      OptionError,
      `cannot evaluate logits: ${flag} is given without --out`,
    );
  }
});

Deno.test("logits takes the groups of experts that a file leaves out, and refuses ones that cannot be", async () => {
  const flags = ["--model", MIXTURE, "--backend", "reference", "--ids", "0,17,246,32"];
  const own = await run(...flags);
  assertEquals(await run(...flags, "--expert-groups", "4,2"), own);
  const { top10 } = await run(...flags, "--expert-groups", "1,1");
  assert(top10[0][0][1] !== own.top10[0][0][1], "without a limit other experts are chosen");
  const refused = (groups: string, message: string) =>
    assertRejects(() => main([...flags, "--expert-groups", groups]), OptionError, message);
  await refused("3,1", "expert groups are 3, 1 of them used, must be a divisor of the 16 experts");
  await refused("2,4", '--expert-groups is "2,4", must be two whole numbers');
});
