/** Evaluations over a scripted engine, and by the command on the built-in model. */

import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { createWasmBackend } from "../../src/backend/wasm/mod.ts";
import { main } from "../../src/cli/eval.ts";
import type { GenerateRequest } from "../../src/engine/types.ts";
import { OptionError } from "../../src/errors.ts";
import { runSet } from "../../src/eval/run.ts";
import { readSet } from "../../src/eval/sets.ts";
import type { EvalSettings } from "../../src/eval/types.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { Evaluator } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import { loadTokenizer } from "../../src/tokenizer/mod.ts";
import { recordedIo, TINY_MODEL } from "../cli/_io.ts";
import { fixture } from "../routes/_support.ts";
import { withFolder } from "../training/data/_corpus.ts";

const SETTINGS: EvalSettings = {
  ...{ chat: false, maxTokens: 24, temperature: 0, topP: 1, seed: 5, samples: 1, slots: 3 },
};

const lines = (...rows: unknown[]) => rows.map((row) => JSON.stringify(row)).join("\n");

const PROBLEMS = lines(
  { id: "p1", question: "one?", answer: "#### 1" },
  { id: "p2", question: "two?", answer: "#### 2" },
  { id: "p3", question: "three?", answer: "#### 3" },
);
const SHOTS = lines(
  { question: "s1?", answer: "a #### 8" },
  { question: "s2?", answer: "b #### 9" },
);

function problems(shots: number) {
  const data = { name: "p.jsonl", text: PROBLEMS };
  return readSet("gsm8k", {
    data,
    ...(shots > 0 && { shots: { name: "s.jsonl", text: SHOTS, count: shots } }),
  });
}

Deno.test("a raw prompt has its shots in front, stops where the next question would begin, and is scored", async () => {
  const { model, tokenizer } = fixture({
    answer: (request: GenerateRequest) => {
      const text = tokenizer.decode(request.tokens);
      prompts.push(text);
      return text.endsWith("three?\nAnswer:") ? " #### 4" : " so #### 1\n\nQuestion: x #### 7";
    },
  });
  const prompts: string[] = [];
  const { results, counts } = await runSet(model, problems(2), { settings: SETTINGS });
  assertEquals(
    prompts.sort()[0].startsWith("Question: s1?\nAnswer: a #### 8\n\nQuestion: s2?"),
    true,
  );
  assert(prompts.includes(
    "Question: s1?\nAnswer: a #### 8\n\nQuestion: s2?\nAnswer: b #### 9\n\nQuestion: two?\nAnswer:",
  ));
  assertEquals(results.map(({ id, scores }) => [id, scores["exact_match/strict"]]), [
    ["p1", 1],
    ["p2", 0],
    ["p3", 0],
  ]);
  assertEquals(results[0].answer, " so #### 1\n\n");
  assert(counts.promptTokens > 0 && counts.answerTokens > 0 && counts.seconds > 0);
  await model.close();
});

Deno.test("shots give way where the context is short, and a prompt that is too long is wrong", async () => {
  const set = problems(2);
  const { model } = fixture({ answer: "#### 1", contextLength: 60 });
  const { results } = await runSet(model, set, { settings: SETTINGS });
  assertEquals(results.map(({ cut }) => cut), [true, true, true]);
  assertEquals(results[0].scores["exact_match/strict"], 1);
  await model.close();
  const tiny = fixture({ answer: "#### 1", contextLength: 4 });
  const { results: none } = await runSet(tiny.model, set, { settings: SETTINGS });
  assert(none.every(({ tooLong, scores }) => tooLong && scores["exact_match/strict"] === 0));
  await tiny.model.close();
});

Deno.test("samples are drawn with seeds of their own and averaged", async () => {
  const seeds: (number | undefined)[] = [];
  const { model } = fixture({
    answer: ({ sampling }: GenerateRequest) => {
      seeds.push(sampling.seed);
      return sampling.seed === 6 ? "#### 1" : "#### 0";
    },
  });
  const settings = { ...SETTINGS, temperature: 0.6, samples: 4, slots: 1 };
  const { results } = await runSet(model, problems(0), { settings });
  assertEquals(seeds.slice(0, 4), [5, 6, 7, 8]);
  assertEquals(results.map(({ scores }) => scores["exact_match/strict"]), [0.25, 0, 0]);
  await model.close();
});

Deno.test("a conversation is judged by what follows the thinking", async () => {
  const { model } = fixture({ family: "tiny_ds", answer: "#### 1 or so</think>\n\n#### 2" });
  const { results } = await runSet(model, problems(0), { settings: { ...SETTINGS, chat: true } });
  assertEquals(results.map(({ scores }) => scores["exact_match/strict"]), [0, 1, 0]);
  await model.close();
});

/** Runs the command in float activations, so that figures can be held against logits. */
async function evaluated(
  args: readonly string[],
  { folder }: { folder: string },
  // deno-lint-ignore no-explicit-any
): Promise<{ out: string; json: any }> {
  const io = recordedIo();
  const common = ["--backend", "wasm", "--threads", "1", "--activations", "f32"];
  const code = await main([...args, ...common, "--json", `${folder}/out.json`], { io });
  assertEquals(code, 0);
  return { out: io.out(), json: JSON.parse(Deno.readTextFileSync(`${folder}/out.json`)) };
}

Deno.test("the command measures the built-in model, prints how, and writes each problem's scores", async () => {
  await withFolder(async (folder) => {
    const sums = [[47, 38], [21, 64], [15, 17]];
    const rows = sums.map(([a, b], i) => ({
      ...{ id: `s${i}`, question: `What is ${a} + ${b}?` },
      answer: `#### ${i === 2 ? 0 : a + b}`,
    }));
    Deno.writeTextFileSync(`${folder}/sums.jsonl`, lines(...rows));
    const args = ["--set", "gsm8k", "--data", `${folder}/sums.jsonl`, "--chat"];
    const { out, json } = await evaluated([...args, "--specialisation", "--watts", "20"], {
      folder,
    });
    assertStringIncludes(out, "gsm8k (sums.jsonl): 3 problems, as conversations, greedy");
    assertStringIncludes(out, "checked               66.7 %  20.8 % to 93.9 %");
    assertStringIncludes(out, "Wh at 20 W (stated, not measured)");
    assertStringIncludes(out, "Experts by kind of token:");
    // deno-lint-ignore no-explicit-any
    assertEquals(json.problems.map((problem: any) => [problem.id, problem.scores.checked]), [
      ["s0", 1],
      ["s1", 1],
      ["s2", 0],
    ]);
    assertEquals(json.problems[0].answer.includes("85"), true);
    assertEquals(json.settings.shots, 0);
    const { tokens, layers } = json.specialisation;
    assert(tokens.digits > 20 && tokens.words > 5 && tokens.control >= 3);
    // deno-lint-ignore no-explicit-any
    assertEquals(layers.map(({ layer }: any) => layer), [1, 2, 3, 4, 5, 6, 7]);
    const all = Object.values<number>(tokens).reduce((sum, count) => sum + count, 0);
    for (const { load, topK, bits, maxOverMean, byClass } of layers) {
      const choices = load.reduce((sum: number, count: number) => sum + count, 0);
      assertEquals(choices, all * topK);
      assertEquals(
        byClass.digits.reduce((sum: number, count: number) => sum + count, 0),
        tokens.digits * topK,
      );
      assert(bits > 0.05 && bits < Math.log2(5) && maxOverMean > 1);
    }
  });
});

Deno.test("choices are compared by the log-likelihoods that the model's logits give", async () => {
  await withFolder(async (folder) => {
    const row = { question: "Which colour?", choices: ["red", "dark blue", "green"], gold: 1 };
    Deno.writeTextFileSync(`${folder}/c.jsonl`, lines(row));
    const args = ["--set", "choices", "--data", `${folder}/c.jsonl`, "--model", TINY_MODEL];
    const { out, json } = await evaluated(args, { folder });
    assertStringIncludes(out, "0 shots, raw prompts, by log-likelihood");
    assertAlmostEquals(json.chance, 1 / 3, 1e-12);
    const expected: number[] = [];
    const source = await openCheckpoint(TINY_MODEL);
    const tokenizer = await loadTokenizer(source);
    const backend = await createWasmBackend({ threads: 1, activations: "f32" });
    const model = await loadModel({ source, backend, maxRows: 64, maxLogitRows: 64 });
    const from = tokenizer.encode("Question: Which colour?\nAnswer:").length;
    for (const choice of row.choices) {
      const ids = tokenizer.encode(`Question: Which colour?\nAnswer: ${choice}`);
      const options = { model, backend, maxRows: 64, sequences: 1, tokens: 64 };
      const [logits] = await new Evaluator(options).allLogits([ids], { chunk: 64 });
      const width = logits.length / ids.length;
      let sum = 0;
      for (let i = from; i < ids.length; i++) {
        const before = logits.subarray((i - 1) * width, i * width);
        const total = before.reduce((all, logit) => all + Math.exp(logit), 0);
        sum += before[ids[i]] - Math.log(total);
      }
      expected.push(sum);
    }
    backend.close();
    source.close();
    const { likelihoods, scores } = json.problems[0];
    likelihoods.forEach((value: number, i: number) => assertAlmostEquals(value, expected[i], 5e-3));
    const perCharacter = expected.map((value, i) => value / row.choices[i].length);
    const best = (list: number[]) => Number(list.indexOf(Math.max(...list)) === 1);
    assertEquals(scores, { acc: best(expected), acc_norm: best(perCharacter) });
  });
});

Deno.test("the command refuses sets, files and flags that don't go together", async () => {
  const run = (...args: string[]) => main(args, { io: recordedIo() });
  const rejects = (args: string[], message: string) =>
    assertRejects(() => run(...args), OptionError, message);
  await rejects([], "--set is missing");
  await rejects(["--set", "mmlu"], '--set is "mmlu", must be one of gsm8k');
  await rejects(["--set", "choices"], "--data is missing, must be a file");
  await rejects(["--set", "gsm8k"], "--data is missing, must be a file, or --shared a folder");
  await rejects(["--set", "gsm8k", "--data", "/nowhere.jsonl", "--chat"], "cannot be read");
  await withFolder(async (folder) => {
    const data = `${folder}/p.jsonl`;
    Deno.writeTextFileSync(data, PROBLEMS);
    await rejects(["--set", "gsm8k", "--data", data], "--shots-data is missing");
    const choices = `${folder}/c.jsonl`;
    Deno.writeTextFileSync(choices, lines({ question: "q", choices: ["a", "b"], gold: 0 }));
    await rejects(["--set", "choices", "--data", choices, "--chat"], "--chat is given with a set");
    const greedy = ["--set", "gsm8k", "--data", data, "--shots", "0", "--samples", "2"];
    await rejects(greedy, "--samples is given with --temperature 0");
  });
});
