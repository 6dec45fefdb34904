import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { main } from "../../src/cli/inspect.ts";
import { addLoads, formatRoutingMap, noLoads } from "../../src/cli/routing_map.ts";
import { FormatError, OptionError, RequestError } from "../../src/errors.ts";
import { recordedIo, TINY_MODEL } from "./_io.ts";

function stdin(text: string): ReadableStream<Uint8Array> {
  return new Blob([text]).stream();
}

Deno.test("inspect prints architecture, tensors by type and the memory plan", async () => {
  const io = recordedIo();
  assertEquals(await main([TINY_MODEL], io), 0);
  for (
    const part of [
      "architecture   qwen3",
      "199.3k (199296), 199.3k active",
      "4 heads of 32, 2 for keys and values",
      "tensors Q8_0   22,",
      "768 B KV per token, 197 kB at 256 tokens",
      "chat template  yes",
    ]
  ) assertStringIncludes(io.out(), part);
});

Deno.test("inspect --json prints one object with the same facts", async () => {
  const io = recordedIo();
  await main([TINY_MODEL, "--json", "--context", "100"], io);
  const report = JSON.parse(io.out());
  assertEquals(report.architecture, "qwen3");
  assertEquals(report.config.layers, 3);
  assertEquals(report.parameters, 199296);
  assertEquals(report.tokenizer, { vocabSize: 512, eosTokens: [507, 505] });
  // 3 layers, 2 heads of keys and of values, 32 values of 2 bytes.
  assertEquals(report.memory.kvPerToken, 3 * 2 * 2 * 32 * 2);
  assertEquals([report.memory.contextLength, report.memory.kvAtContext], [100, 100 * 768]);
});

Deno.test("inspect of a bad file is the loader's error", async () => {
  const path = await Deno.makeTempFile({ suffix: ".gguf" });
  try {
    await Deno.writeTextFile(path, "GGUF");
    await assertRejects(() => main([path], recordedIo()), FormatError);
  } finally {
    await Deno.remove(path);
  }
});

Deno.test("inspect without a path, or with two, is refused", async () => {
  await assertRejects(() => main([], recordedIo()), OptionError, "no path is given");
  await assertRejects(() => main(["a", "b"], recordedIo()), OptionError);
});

Deno.test("inspect --stdin gives every path a line and outlives bad files", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const whole = await Deno.readFile(TINY_MODEL);
    const cut = `${folder}/cut.gguf`;
    await Deno.writeFile(cut, whole.subarray(0, 20_000));
    // The name of a tensor that the architecture needs, changed: only loading can notice.
    const renamed = `${folder}/renamed.gguf`;
    const text = new TextDecoder("latin1").decode(whole);
    const at = text.indexOf("output_norm.weight");
    assert(at > 0);
    const changed = whole.slice();
    changed[at] = "X".charCodeAt(0);
    await Deno.writeFile(renamed, changed);
    const paths = [`${folder}/missing`, cut, renamed, folder, TINY_MODEL];
    const io = { ...recordedIo(), stdin: stdin(`${paths.join("\r\n")}\n\n${TINY_MODEL}`) };
    assertEquals(await main(["--stdin"], io), 0);
    const lines = io.out().trim().split("\n").map((line) => JSON.parse(line));
    assertEquals(lines.map(({ path }) => path), [...paths, TINY_MODEL]);
    assertEquals(lines.map(({ ok }) => ok), [false, false, false, false, true, true]);
    for (const { ok, error } of lines) {
      if (ok) continue;
      assertEquals(error.class, "FormatError");
      assert(error.message.startsWith("cannot "), error.message);
    }
    assertStringIncludes(lines[2].error.message, "output_norm.weight");
    assertEquals(lines[5], { path: TINY_MODEL, ok: true });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

const LAYERS = [{ layer: 9, experts: 4, topK: 2 }, { layer: 10, experts: 40, topK: 1 }];

function mapOf(colour: boolean): string {
  const loads = noLoads(LAYERS);
  // Expert 3 of layer 9 by every token, and two of layer 10 by a third and two thirds of them.
  for (let token = 0; token < 9; token++) {
    const routing = {
      experts: Int32Array.of(3, token === 0 ? 0 : 1, token % 3 === 0 ? 2 : 39),
      weights: new Float32Array(3),
    };
    addLoads(loads, { routing, layers: LAYERS });
  }
  return formatRoutingMap({ layers: LAYERS, loads, tokens: { prompt: 7, answer: 2 }, colour });
}

Deno.test("a routing map shows each expert's load as a digit and names the busiest", () => {
  assertEquals(mapOf(false).split("\n"), [
    "7 prompt tokens and 2 of the answer",
    "",
    "layer  9  18.9",
    "layer 10    0+  ..3.............................",
    "           32+  .......6",
    "",
    "never .123456789 9 times",
    "",
    "Busiest experts:",
    "layer  9  3 (50 %), 1 (44 %), 0 (6 %); max/mean 2.0, 1 never chosen",
    "layer 10  39 (67 %), 2 (33 %); max/mean 26.7, 38 never chosen",
  ]);
});

Deno.test("a routing map in colour has the same cells, hotter where the digit is larger", () => {
  const [, , layer9, , , , scale] = mapOf(true).split("\n");
  // deno-lint-ignore no-control-regex
  const cells = (line: string) => [...line.matchAll(/48;5;(\d+)m|\x1b\[2m/g)].map(([, c]) => c);
  const heat = cells(scale);
  assertEquals(new Set(heat).size, 10);
  assertEquals(cells(layer9), [heat[1], heat[8], heat[0], heat[9]]);
});

Deno.test("inspect --routing of a dense model says that there is nothing to draw", async () => {
  await assertRejects(
    () => main(["--routing", "hidden", "--model", TINY_MODEL, "--threads", "1"], recordedIo()),
    RequestError,
    "the model is dense",
  );
});

Deno.test("inspect --routing draws digits into a pipe and under NO_COLOR, colours otherwise", async () => {
  const run = async (isTerminal: boolean, noColour: boolean, ...args: string[]) => {
    const io = { ...recordedIo({ isTerminal }), noColour };
    const flags = ["--backend", "reference", "--routing", "What is 47 + 38?"];
    assertEquals(await main([...flags, ...args], io), 0);
    return io.out();
  };
  const plain = await run(false, false, "--max-tokens", "0");
  const lines = plain.split("\n");
  assertEquals(lines[0], "15 prompt tokens and 0 of the answer");
  const cells = lines.slice(2, 9).map((line) => line.replace(/^layer \d {2}/, ""));
  for (const row of cells) assert(/^[.\d]{32}$/.test(row), row);
  assertEquals(lines[9], "");
  assertEquals(await run(true, true, "--max-tokens", "0"), plain);
  assertStringIncludes(await run(true, false, "--max-tokens", "0"), "\x1b[48;5;");
  const answered = await run(false, false, "--max-tokens", "4");
  assertEquals(answered.split("\n")[0], "15 prompt tokens and 3 of the answer");
  assert(answered !== plain);
});
