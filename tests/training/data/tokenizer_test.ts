import { assert, assertEquals, assertRejects } from "@std/assert";
import { ChatTemplate } from "../../../src/chat/mod.ts";
import { FormatError } from "../../../src/errors.ts";
import { type Tokenizer, tokenizerFromHuggingFace } from "../../../src/tokenizer/mod.ts";
import { Draws } from "../../../src/training/data/draws.ts";
import { FAMILIES, problemAt } from "../../../src/training/data/families/mod.ts";
import { type Draft, problemDraft } from "../../../src/training/data/rows.ts";
import { trainMerges } from "../../../src/training/data/tokenizer/bpe_trainer.ts";
import { BOS, byteIds, CHAT_TEMPLATE, EOS } from "../../../src/training/data/tokenizer/files.ts";
import { trainTokenizer } from "../../../src/training/data/tokenizer/train.ts";

async function* rows(count = 400): AsyncGenerator<Draft> {
  for (let index = 0; index < count; index++) {
    const family = FAMILIES[index % FAMILIES.length];
    yield problemDraft(problemAt(family, { seed: 1, index, levels: [1, 2], notation: "columns" }));
  }
}

const RECIPE = {
  vocabulary: 600,
  digits: "single",
  minCount: 2,
  rows: 1000,
  contextLength: 512,
} as const;

async function trained(
  options: { digits?: "single" | "triples" } = {},
): Promise<{ tokenizer: Tokenizer; json: string; config: string }> {
  const files = await trainTokenizer(rows(), { recipe: { ...RECIPE, ...options } });
  const [json, config] = [files["tokenizer.json"], files["tokenizer_config.json"]];
  const tokenizer = tokenizerFromHuggingFace(
    { tokenizer: json, tokenizerConfig: config },
    { name: "trained" },
  );
  return { tokenizer, json, config };
}

/** The merges by the definition: count all pairs, merge the commonest, count again. */
function slowMerges(pieces: ReadonlyMap<string, number>, count: number): string[] {
  const ids = byteIds();
  let words = [...pieces].map(([piece, count]) => ({
    tokens: [...new TextEncoder().encode(piece)].map((byte) => ids[byte]),
    count,
  }));
  const merges: string[] = [];
  for (let next = 1000; merges.length < count; next++) {
    const counts = new Map<string, number>();
    for (const { tokens, count } of words) {
      for (let i = 0; i + 1 < tokens.length; i++) {
        const pair = `${tokens[i]} ${tokens[i + 1]}`;
        counts.set(pair, (counts.get(pair) ?? 0) + count);
      }
    }
    const order = (pair: string) => pair.split(" ").map(Number);
    const [best] = [...counts].sort(([a, x], [b, y]) =>
      y - x || order(a)[0] - order(b)[0] || order(a)[1] - order(b)[1]
    );
    if (best === undefined || best[1] < 2) break;
    const [left, right] = order(best[0]);
    merges.push(best[0]);
    words = words.map(({ tokens, count }) => {
      const merged: number[] = [];
      for (let i = 0; i < tokens.length; i++) {
        if (tokens[i] === left && tokens[i + 1] === right) {
          merged.push(next);
          i++;
        } else merged.push(tokens[i]);
      }
      return { tokens: merged, count };
    });
  }
  return merges;
}

Deno.test("merges are those of the definition, ties and repeated letters included", () => {
  const draws = new Draws("merges");
  for (let trial = 0; trial < 40; trial++) {
    const pieces = new Map<string, number>();
    // Few letters, so that there are ties, runs such as aaaa, and tokens made in two ways.
    for (let i = 0; i < 30; i++) {
      const piece = Array.from({ length: draws.integer(1, 9) }, () => draws.pick(["a", "b", "é"]))
        .join("");
      pieces.set(piece, draws.integer(1, 4));
    }
    const options = { byteIds: byteIds(), firstId: 1000, count: 25, minCount: 2 };
    const merges = trainMerges(pieces, options);
    // Up to the first token that is made twice: the slow way gives it an id of its own.
    const ids = merges.map(({ id }) => id);
    const twice = ids.findIndex((id, i) => ids.indexOf(id) < i);
    const end = twice < 0 ? ids.length : twice;
    assert(end > 3);
    assertEquals(
      merges.slice(0, end).map(({ left, right }) => `${left} ${right}`),
      slowMerges(pieces, end),
    );
  }
});

Deno.test("the order of the pieces does not matter", () => {
  const draws = new Draws("order");
  const pieces = Array.from(
    { length: 200 },
    () =>
      [
        Array.from({ length: draws.integer(2, 8) }, () => draws.pick([..."abcdef"])).join(""),
        draws.integer(1, 9),
      ] as const,
  );
  const options = { byteIds: byteIds(), firstId: 300, count: 80, minCount: 2 };
  const merges = trainMerges(new Map(pieces), options);
  assertEquals(trainMerges(new Map([...new Map(pieces)].reverse()), options), merges);
});

Deno.test("our own reader loads what was trained, and any text survives it", async () => {
  for (const digits of ["single", "triples"] as const) {
    const { tokenizer } = await trained({ digits });
    assertEquals(tokenizer.vocabSize, 600);
    const texts = [
      "What is 47 + 38?",
      "zwölf Ünïcödé 漢字 🙂",
      "\u0000\n\t  \r\n",
      "<think>\n1\n</think>",
    ];
    for await (const row of rows(60)) {
      if (row.kind === "chat") texts.push(...row.messages.map(({ content }) => content));
    }
    for (const text of texts) {
      assertEquals(tokenizer.decode(tokenizer.encode(text, { addSpecial: false })), text);
    }
  }
});

Deno.test("each digit is a token of its own, or three together", async () => {
  const pieces = async (digits: "single" | "triples") => {
    const { tokenizer } = await trained({ digits });
    return tokenizer.encode("1234", { addSpecial: false }).map((id) => tokenizer.idToPiece(id));
  };
  assertEquals(await pieces("single"), ["1", "2", "3", "4"]);
  assert((await pieces("triples")).every((piece) => piece.length <= 3));
});

Deno.test("special tokens are found as such, and thinking is text", async () => {
  const { tokenizer } = await trained();
  const ids = ["<think>", "</think>", BOS, EOS, "<｜User｜>", "<｜Assistant｜>"].map((text) => {
    const own = tokenizer.encode(text, { addSpecial: false });
    assertEquals(own.length, 1, text);
    return own[0];
  });
  assertEquals(ids.map((id) => tokenizer.isSpecial(id)), [false, false, true, true, true, true]);
  assertEquals(tokenizer.eosTokens, [ids[3]]);
  assertEquals(tokenizer.encode("a")[0], ids[2], "the beginning is put in front");
});

Deno.test("the template is rendered in R1's form", () => {
  const template = new ChatTemplate(CHAT_TEMPLATE, { bosToken: BOS, eosToken: EOS });
  const messages = [
    { role: "system", content: "Be brief." },
    { role: "user", content: "2 + 2?" },
    { role: "assistant", content: "<think>\n2 + 2 = 4\n</think>\n\n4." },
    { role: "user", content: "And 3 + 3?" },
  ];
  const past = `${BOS}Be brief.<｜User｜>2 + 2?<｜Assistant｜>4.${EOS}<｜User｜>And 3 + 3?`;
  assertEquals(template.render(messages), `${past}<｜Assistant｜><think>\n`);
  assertEquals(template.render(messages, { addGenerationPrompt: false }), past);
});

Deno.test("the same rows give the same files, and too few rows an error", async () => {
  assertEquals((await trained()).json, (await trained()).json);
  const error = await assertRejects(
    () => trainTokenizer(rows(), { recipe: { ...RECIPE, vocabulary: 50_000 } }),
    FormatError,
  );
  assert(/\d+ at most \(400 rows/.test(error.message), error.message);
});
