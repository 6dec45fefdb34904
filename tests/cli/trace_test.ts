import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { main } from "../../src/cli/trace.ts";
import { modelPathOf } from "../../src/cli/model_path.ts";
import { FormatError, OptionError, UnsupportedOpError } from "../../src/errors.ts";
import { parseTrace, type Trace } from "../../src/experts/trace.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { Evaluator } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { loadTokenizer } from "../../src/tokenizer/mod.ts";
import { recordedIo, TINY_MODEL } from "./_io.ts";

const PROMPTS = [
  { prompt: "What is 47 + 38?", kind: "sums" },
  { text: "ROMEO:\nWhat light is this, that through the window", kind: "plays" },
];

async function withPrompts(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    const lines = PROMPTS.map((prompt) => JSON.stringify(prompt)).join("\n\n");
    await Deno.writeTextFile(`${folder}/prompts.jsonl`, `${lines}\n`);
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Records a trace of the built-in model; the reference backend has no threads to wait for. */
async function trace(folder: string, flags: readonly string[]): Promise<Trace> {
  const out = `${folder}/trace.jsonl`;
  const backend = flags.includes("--backend") ? [] : ["--backend", "reference"];
  assertEquals(await main(["--out", out, ...backend, ...flags], recordedIo()), 0);
  return parseTrace(await Deno.readTextFile(out), "trace");
}

Deno.test("trace records the experts of prompts, chunk by chunk, and of answers, token by token", async () => {
  await withPrompts(async (folder) => {
    const prompts = ["--prompts", `${folder}/prompts.jsonl`];
    const recorded = await trace(folder, [...prompts, "--tokens", "5", "--chunk", "8"]);
    assertEquals([recorded.layers, recorded.experts, recorded.topK], [
      [1, 2, 3, 4, 5, 6, 7],
      32,
      4,
    ]);
    assertEquals(recorded.documents.map(({ kind }) => kind), ["sums", "plays"]);
    const source = await openCheckpoint(modelPathOf(undefined));
    try {
      const tokenizer = await loadTokenizer(source);
      const text = "<｜begin▁of▁sentence｜><｜User｜>What is 47 + 38?<｜Assistant｜><think>\n";
      const ids = tokenizer.encode(text, { addSpecial: false, parseSpecial: true });
      const { steps } = recorded.documents[0];
      assertEquals(steps.map(({ rows, prefill }) => [rows, prefill]), [
        ...Array.from({ length: Math.floor(ids.length / 8) }, () => [8, true]),
        ...(ids.length % 8 === 0 ? [] : [[ids.length % 8, true]]),
        ...Array.from({ length: 5 }, () => [1, false]),
      ]);
      // The same tokens in one step, with what greedy decoding adds, are routed alike.
      const backend = createReferenceBackend();
      const model = await loadModel({ source, backend, maxRows: 64, maxLogitRows: 64 });
      const evaluator = new Evaluator({ model, backend, maxRows: 64, sequences: 1, tokens: 64 });
      const last = await evaluator.prefill(ids, { chunk: 64 });
      const answer = await evaluator.greedy(last, { count: 5 });
      await evaluator.prefill([...ids, ...answer], { chunk: 64 });
      const routing = await evaluator.routing();
      for (const [layer, { experts }] of routing.entries()) {
        assertEquals(steps.flatMap((step) => step.experts[layer]), [...experts]);
      }
    } finally {
      source.close();
    }
  });
});

Deno.test("trace is repeatable, and a seed changes random answers", async () => {
  await withPrompts(async (folder) => {
    const flags = ["--prompts", `${folder}/prompts.jsonl`, "--tokens", "8", "--temperature", "1"];
    const one = await trace(folder, flags);
    assertEquals(await trace(folder, flags), one);
    assertNotEquals(await trace(folder, [...flags, "--seed", "77"]), one);
    assertEquals((await trace(folder, [...flags, "--documents", "1"])).documents.length, 1);
  });
});

Deno.test("trace --text takes pieces from all over a text", async () => {
  await withPrompts(async (folder) => {
    const words = Array.from({ length: 400 }, (_, i) => `word${i}`).join(" ");
    await Deno.writeTextFile(`${folder}/story.txt`, words);
    const flags = ["--text", `${folder}/story.txt`, "--piece", "10", "--documents", "3"];
    const { documents } = await trace(folder, [...flags, "--tokens", "0"]);
    assertEquals(documents.map(({ kind }) => kind), ["story", "story", "story"]);
    for (const { steps } of documents) assertEquals(steps.map(({ rows }) => rows), [11]);
    const experts = new Set(documents.map(({ steps }) => steps[0].experts.join(" ")));
    assertEquals(experts.size, 3);
  });
});

Deno.test("trace records the same with paged experts, and what was foreseen with it", async () => {
  await withPrompts(async (folder) => {
    const prompts = ["--prompts", `${folder}/prompts.jsonl`, "--tokens", "5", "--threads", "1"];
    const flags = [...prompts, "--backend", "wasm", "--activations", "f32"];
    const resident = await trace(folder, flags);
    const paging = ["--expert-cache", "2MiB", "--expert-policy", "lru"];
    assertEquals(await trace(folder, [...flags, ...paging]), resident);
    for (const { predicted } of resident.documents.flatMap(({ steps }) => steps)) {
      const isForeseen = predicted!.map((ids) => ids.length > 0);
      assertEquals(isForeseen, [false, true, true, true, true, true, true]);
    }
  });
});

Deno.test("trace ends an answer where the model does", async () => {
  await withPrompts(async (folder) => {
    const flags = ["--prompts", `${folder}/prompts.jsonl`, "--documents", "1", "--tokens", "200"];
    const [{ steps }] = (await trace(folder, flags)).documents;
    const decoded = steps.filter(({ prefill }) => !prefill).length;
    assert(decoded > 10 && decoded < 200, `${decoded} tokens`);
  });
});

Deno.test("trace refuses wrong flags, wrong prompts and models without experts by name", async () => {
  await withPrompts(async (folder) => {
    const [prompts, out] = [`${folder}/prompts.jsonl`, `${folder}/out`];
    const both = ["--prompts", prompts, "--text", prompts, "--out", out];
    await assertRejects(() => main(both, recordedIo()), OptionError, "both are given");
    await assertRejects(() => main(["--out", out], recordedIo()), OptionError, "neither");
    await assertRejects(() => main(["--prompts", prompts], recordedIo()), OptionError, "--out");
    const dense = ["--model", TINY_MODEL, "--prompts", prompts, "--out", out, "--tokens", "1"];
    await assertRejects(() => main(dense, recordedIo()), UnsupportedOpError, "no routed experts");
    for (
      const [line, says] of [
        ['{"kind":"a"}', '"prompt" is missing'],
        ['{"prompt":"a","text":"b"}', '"prompt" is there beside "text"'],
        ['{"prompt":1}', '"prompt" is something else'],
        ["[]", "the line is no object"],
        ["", "without prompts"],
        ["{", "line 1"],
      ]
    ) {
      await Deno.writeTextFile(prompts, line);
      const args = ["--prompts", prompts, "--out", out];
      await assertRejects(() => main(args, recordedIo()), FormatError, says);
    }
  });
});
