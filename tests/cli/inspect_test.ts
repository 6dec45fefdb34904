import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { main } from "../../src/cli/inspect.ts";
import { FormatError, OptionError } from "../../src/errors.ts";
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
      "1.5 kB KV per token, 393 kB at 256 tokens",
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
  // 3 layers, 2 heads of keys and of values, 32 values of 4 bytes.
  assertEquals(report.memory.kvPerToken, 3 * 2 * 2 * 32 * 4);
  assertEquals([report.memory.contextLength, report.memory.kvAtContext], [100, 100 * 1536]);
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
