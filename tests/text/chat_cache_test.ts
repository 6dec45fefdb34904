/**
 * A chat of several turns with a model that thinks: R1's template drops what earlier turns thought, so
 * the prompts of two turns agree up to where the first one's answer begins, and up to there nothing is
 * computed twice.
 */

import { assert, assertEquals } from "@std/assert";
import { ChatTemplate } from "../../src/chat/mod.ts";
import { openLocalEngine } from "../../src/engine/open_local_engine.ts";
import type { CachedTokens } from "../../src/engine/types.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { NEUTRAL_SAMPLING } from "../../src/sampling/types.ts";
import { createTextModel } from "../../src/text/text_model.ts";
import type { TextMessage, TextModel } from "../../src/text/types.ts";
import { loadTokenizer } from "../../src/tokenizer/mod.ts";
import { MemoryStore } from "../engine/_memory_store.ts";
import { ROOT, TINY_V3 } from "../support/fixtures.ts";

const MODEL = TINY_V3;
const R1 = Deno.readTextFileSync(
  new URL("tests/data/chat/deepseek_r1_distill_qwen.jinja", ROOT),
);

const QUESTIONS = [
  "What is 12 + 30? Say how you come to it, step by step, as you would to a friend who likes numbers.",
  "And what is that, taken from 100? Use what you found before, and say how you come to it as well.",
  "Which of the two numbers is larger, the first one that you found or the second one?",
];

interface Turn {
  readonly tokens: readonly number[];
  readonly content: string;
  readonly cached: CachedTokens;
}

async function withR1<T>(
  { store, reusePrefixes }: { store?: MemoryStore; reusePrefixes?: boolean },
  body: (model: TextModel) => Promise<T>,
): Promise<T> {
  const source = await openCheckpoint(MODEL);
  const tokenizer = await loadTokenizer(source);
  source.close();
  const engine = await openLocalEngine({
    ...{ model: MODEL, backend: "wasm", activations: "q8", threads: 1, slots: 1 },
    ...{ chunkTokens: 64, reusePrefixes },
  }, { store });
  const model = createTextModel({ engine, tokenizer, template: new ChatTemplate(R1) });
  try {
    return await body(model);
  } finally {
    await model.close();
  }
}

/** Asks in turns; each answer, thinking included, goes back as a client would send it. */
async function chat(model: TextModel): Promise<Turn[]> {
  const messages: TextMessage[] = [];
  const turns: Turn[] = [];
  for (const question of QUESTIONS) {
    messages.push({ role: "user", content: question });
    const prompt = await model.chatPrompt(messages);
    const options = { sampling: NEUTRAL_SAMPLING, maxTokens: 24 };
    let content = "";
    let cached: CachedTokens | undefined;
    for await (const event of model.answer(prompt, options)) {
      if (event.type === "delta") content += event.reasoning + event.content;
      if (event.type === "done") cached = event.cached;
    }
    assert(cached !== undefined);
    turns.push({ tokens: prompt.tokens, content, cached });
    messages.push({ role: "assistant", content: `<think>\n${content}</think>It is so.` });
  }
  return turns;
}

/** How many tokens two prompts have in common from the first one on. */
function commonTokens(a: readonly number[], b: readonly number[]): number {
  let count = 0;
  while (count < a.length && a[count] === b[count]) count++;
  return count;
}

Deno.test("each turn of an R1 chat hits up to where the last turn's thinking was dropped", async () => {
  const without = await withR1({ reusePrefixes: false }, chat);
  const store = new MemoryStore();
  const turns = await withR1({ store }, chat);
  assertEquals(turns.map(({ content }) => content), without.map(({ content }) => content));
  for (const [i, { tokens, cached }] of turns.entries()) {
    const before = i === 0 ? [] : turns[i - 1].tokens;
    const common = commonTokens(before, tokens);
    assertEquals(cached, { memory: common, store: 0 });
    // The thinking is what the prompts don't have in common: the answer's place is in neither.
    assert(i === 0 || (common > before.length - 10 && common < before.length));
  }
  assert(turns[2].tokens.length > 64);
});

Deno.test("after a restart the chat goes on from what the store has", async () => {
  const store = new MemoryStore();
  const before = await withR1({ store }, chat);
  const [first, second, third] = await withR1({ store }, chat);
  assertEquals(
    [first, second, third].map(({ content }) => content),
    before.map(({ content }) => content),
  );
  assertEquals(first.cached, { memory: 0, store: first.tokens.length - 1 });
  assert(second.cached.store + third.cached.store >= 64);
});
