import { assert, assertEquals } from "@std/assert";
import { tokenizerFromHuggingFace } from "../../src/tokenizer/mod.ts";
import { normalizeNfc } from "../../src/tokenizer/normalize.ts";
import { DATA, goldenCases, openHuggingFace, openVocabulary } from "./support.ts";

const vocabularyFile = `${DATA}ggml-vocab-deepseek-coder.gguf`;

/** The tiny Llama-3-like tokenizer with changed added tokens. */
function withAddedTokens(tokens: Record<string, unknown>[], normalizer: unknown = null) {
  const json = JSON.parse(Deno.readTextFileSync(`${DATA}tiny_ll/tokenizer.json`));
  const common = {
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: false,
  };
  const added = tokens.map((token, i) => ({ ...common, id: 512 + i, ...token }));
  const document = { ...json, normalizer, added_tokens: [...json.added_tokens, ...added] };
  return tokenizerFromHuggingFace({ tokenizer: JSON.stringify(document) }, { name: "changed" });
}

/** The texts of a text's tokens. */
function pieces(tokenizer: ReturnType<typeof withAddedTokens>, text: string): string[] {
  const ids = tokenizer.encode(text, { addSpecial: false });
  return ids.map((id) => id >= 512 ? `#${id}` : tokenizer.idToPiece(id));
}

Deno.test("stream decoder gives only whole characters and all answers together are decode's", () => {
  const tokenizer = openHuggingFace(`${DATA}tiny_ds`);
  for (const { name, ids, decoded } of goldenCases(`${DATA}tiny_ds/golden.json`)) {
    const decoder = tokenizer.decoder();
    let text = "";
    for (const id of ids) {
      text += decoder.push(id);
      // A text that stands in the golden has no U+FFFD of its own.
      assert(decoded.startsWith(text) && !/[\ud800-\udbff]$/.test(text), name);
    }
    assertEquals(decoder.flush(), "", name);
    assertEquals(text, decoded, name);
  }
});

Deno.test("stream decoder replaces bytes that are no character as decode does", () => {
  const tokenizer = openHuggingFace(`${DATA}tiny_ll`);
  const [first, second] = tokenizer.encode("😀", { addSpecial: false });
  const letter = tokenizer.tokenToId("a")!;
  for (const ids of [[first], [first, letter], [second, letter], [first, second, first, letter]]) {
    const decoder = tokenizer.decoder();
    const streamed = ids.map((id) => decoder.push(id)).join("") + decoder.flush();
    assertEquals(streamed, tokenizer.decode(ids));
    assert(streamed.includes("\ufffd"));
  }
});

Deno.test("tokens are found by their text and give their bytes back", () => {
  const tokenizer = openHuggingFace(`${DATA}tiny_ds`);
  for (let id = 0; id < tokenizer.vocabSize; id++) {
    const piece = tokenizer.idToPiece(id);
    if (!piece.includes("\ufffd")) assertEquals(tokenizer.tokenToId(piece), id);
  }
  assertEquals(tokenizer.tokenToId("no such token"), undefined);
  assertEquals(
    tokenizer.idToBytes(tokenizer.tokenToId("</think>")!),
    new TextEncoder().encode("</think>"),
  );
  assertEquals(tokenizer.idToBytes(100_000), new Uint8Array(0));
  assertEquals(tokenizer.decode([100_000, tokenizer.tokenToId("a")!]), "a");
});

Deno.test("special tokens in a text are plain text without parseSpecial, other added tokens are not", () => {
  const tokenizer = openHuggingFace(`${DATA}tiny_ds`);
  const text = "<think><｜end▁of▁sentence｜>";
  const parsed = tokenizer.encode(text, { addSpecial: false });
  const plain = tokenizer.encode(text, { addSpecial: false, parseSpecial: false });
  assertEquals(parsed, [tokenizer.tokenToId("<think>")!, tokenizer.eosToken!]);
  assertEquals(plain[0], parsed[0]);
  assert(!plain.includes(tokenizer.eosToken!));
  assertEquals(tokenizer.decode(plain), text);
  assertEquals(tokenizer.decode(parsed, { skipSpecial: true }), "<think>");
  assert(tokenizer.isSpecial(tokenizer.eosToken!) && !tokenizer.isSpecial(parsed[0]));
});

Deno.test("added tokens honour lstrip, rstrip and single_word", () => {
  const tokenizer = withAddedTokens([
    { content: "<L>", lstrip: true },
    { content: "<R>", rstrip: true },
    { content: "word", single_word: true },
    { content: "wo" },
  ]);
  assertEquals(pieces(tokenizer, "a \t<L> b"), ["a", "#512", " ", "b"]);
  assertEquals(pieces(tokenizer, "a <R> \n b"), ["a", " ", "#513", "b"]);
  assertEquals(pieces(tokenizer, "a word!"), ["a", " ", "#514", "!"]);
  // The longest token is taken and dropped as part of a word; the shorter one inside stays hidden.
  assertEquals(pieces(tokenizer, "words"), ["w", "or", "ds"]);
  assertEquals(pieces(tokenizer, "wolf"), ["#515", "l", "f"]);
});

Deno.test("normalized added tokens are looked for in the normalised text, the others before", () => {
  const tokenizer = withAddedTokens([
    { content: "<\u00e9>", normalized: true },
    { content: "<\u00e8>", normalized: false },
  ], { type: "NFC" });
  assertEquals(pieces(tokenizer, "<e\u0301>"), ["#512"]);
  assertEquals(pieces(tokenizer, "<\u00e8>"), ["#513"]);
  assert(!pieces(tokenizer, "<e\u0300>").includes("#513"));
});

Deno.test("lone surrogates encode as U+FFFD", () => {
  const tokenizer = openHuggingFace(`${DATA}tiny_qw`);
  const expected = tokenizer.encode("a\ufffdb\ufffd", { addSpecial: false });
  assertEquals(tokenizer.encode("a\ud83db\ude00", { addSpecial: false }), expected);
});

Deno.test("normalising sorts long runs of marks without changing what NFC is", () => {
  const marks = Array.from("\u0301\u0327\u0345\u0334\u0344\u05b0\u3099\u093e\u20dd\u0e38\u0f74");
  let state = 1;
  const next = (below: number) => (state = (state * 48271) % 0x7fffffff) % below;
  for (let round = 0; round < 200; round++) {
    let text = "e";
    for (let i = 0; i < 64 + next(200); i++) {
      text += next(60) === 0 ? "o" : marks[next(marks.length)];
    }
    assertEquals(normalizeNfc(text), text.normalize("NFC"));
  }
});

Deno.test("encoding time is linear: texts that are one endless piece take well under a second", async () => {
  const tokenizers = [
    await openVocabulary(vocabularyFile),
    openHuggingFace(`${DATA}tiny_ds`),
    openHuggingFace(`${DATA}tiny_qw`),
    openHuggingFace(`${DATA}tiny_ll`),
  ];
  const texts = {
    letters: Array.from({ length: 200_000 }, (_, i) => String.fromCharCode(97 + (i * i) % 26)).join(
      "",
    ),
    spaces: " ".repeat(100_000),
    emoji: "😀".repeat(50_000),
    marks: "a" + "\u0301\u0327".repeat(50_000),
    tokenBeginnings: "<｜tool▁calls".repeat(15_000),
    brackets: "<".repeat(200_000),
    spacesAndBreaks: " \n".repeat(50_000) + "x",
    digits: "0123456789".repeat(10_000),
  };
  for (const tokenizer of tokenizers) {
    for (const [name, text] of Object.entries(texts)) {
      const begin = performance.now();
      const ids = tokenizer.encode(text, { addSpecial: false });
      const milliseconds = performance.now() - begin;
      assert(milliseconds < 1000, `${name} took ${milliseconds} ms`);
      const decoded = tokenizer.decode(ids);
      assert(decoded === text || decoded === normalizeNfc(text), name);
    }
  }
});

Deno.test("encodeAsync gives encode's ids and lets timers run meanwhile", async () => {
  const tokenizer = await openVocabulary(vocabularyFile);
  const text = "The quick brown fox. ".repeat(20_000) + "x".repeat(200_000);
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  const ids = await tokenizer.encodeAsync(text);
  clearInterval(timer);
  assert(ticks >= 5, `${ticks} ticks`);
  assertEquals(ids, tokenizer.encode(text));
});
