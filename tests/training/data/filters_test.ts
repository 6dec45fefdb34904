import { assert, assertEquals } from "@std/assert";
import { Draws } from "../../../src/training/data/draws.ts";
import { WORDS } from "../../../src/training/data/families/names.ts";
import { Contamination } from "../../../src/training/data/filters/contamination.ts";
import { DuplicateIndex } from "../../../src/training/data/filters/duplicates.ts";
import { openLanguageFilter } from "../../../src/training/data/filters/language.ts";
import {
  lengthFault,
  repetitionFault,
  symbolFault,
} from "../../../src/training/data/filters/quality.ts";
import { chatDraft } from "../../../src/training/data/rows.ts";

const REPETITION = { maxLines: 0.3, maxWords: 0.3, words: 8, maxPair: 0.2 };
const PROSE =
  "The river rose in the night and by morning the lower fields were under water. Nobody " +
  "had expected so much rain so late in the year, and the farmers stood on the bridge and counted " +
  "what they could still see: two carts, a row of apple trees, and the roof of the old mill.";

/** Words at random, as many as asked for. */
function words(draws: Draws, count: number): string[] {
  return Array.from({ length: count }, () => draws.pick(WORDS) + draws.integer(0, 99));
}

Deno.test("length is counted in characters and words", () => {
  const limits = { minCharacters: 3, maxCharacters: 20, minWords: 2, maxWords: 4 };
  assertEquals(lengthFault("a", limits), "too short");
  assertEquals(lengthFault("oneword", limits), "too short");
  assertEquals(lengthFault("two words", limits), null);
  assertEquals(lengthFault("one two three four five", limits), "too long");
  assertEquals(lengthFault("a b c d e", limits), "too long");
});

Deno.test("symbols and digits in place of letters are noticed in any script", () => {
  const limits = { maxSymbols: 0.2, minLetters: 0.6 };
  assertEquals(symbolFault(PROSE, limits), null);
  assertEquals(symbolFault("Это обычное предложение на русском языке.", limits), null);
  assertEquals(symbolFault("%%% ### {}{} ;;; <<<< hello", limits), "too many symbols");
  assertEquals(symbolFault("12 345 678 90 hello 12 33", limits), "too few letters");
  assertEquals(symbolFault(" \n ", limits), "too few letters");
});

Deno.test("repeated lines, passages and pairs of words are noticed, and ordinary prose is not", () => {
  assertEquals(repetitionFault(PROSE, REPETITION), null);
  assertEquals(repetitionFault("buy now\n".repeat(10) + PROSE, REPETITION), "repeated lines");
  assertEquals(repetitionFault(`${PROSE} ${PROSE}`, REPETITION), "repeated words");
  assertEquals(repetitionFault("very very ".repeat(30), REPETITION), "repeated words");
  assertEquals(repetitionFault("no no no", REPETITION), null, "too short to tell");
});

Deno.test("the language filter keeps English apart from other languages", async () => {
  const filter = await openLanguageFilter({ allow: ["en"], minCharacters: 20 });
  assertEquals(filter(PROSE), null);
  const others = [
    "Der Fluss stieg in der Nacht, und am Morgen standen die unteren Felder unter Wasser.",
    "La rivière est montée pendant la nuit et les champs étaient sous l'eau le matin.",
    "El río creció durante la noche y por la mañana los campos estaban bajo el agua.",
    "Река поднялась за ночь, и к утру нижние поля оказались под водой.",
    "夜の間に川が増水し、朝には低い畑が水に浸かっていた。",
  ];
  for (const text of others) assertEquals(filter(text), "language", text);
  assertEquals(filter("Der Fluss"), null, "too short to tell");
});

Deno.test("a shared run of words is found anywhere, a shorter one is not", () => {
  const contamination = new Contamination({ words: 13, minWords: 8 });
  const draws = new Draws("contamination");
  const question = words(draws, 40);
  contamination.add(chatDraft({ prompt: question.join(" "), reply: "The answer is 24." }));
  contamination.add(chatDraft({ prompt: "Short one here?", reply: "yes" }));
  const fault = (prompt: string) =>
    contamination.fault(chatDraft({ prompt, reply: "The answer is 24." }));
  for (let i = 0; i < 200; i++) {
    const from = draws.integer(0, 27);
    const around = (run: string[]) =>
      `${words(draws, 10).join(" ")}, ${run.join("; ").toUpperCase()}! ${
        words(draws, 10).join(" ")
      }`;
    assertEquals(fault(around(question.slice(from, from + 13))), "words of an evaluation set");
    assertEquals(fault(around(question.slice(from, from + 12))), null);
  }
  assertEquals(fault("short  one HERE?"), "prompt of an evaluation set");
  assertEquals(fault("Short one here and now?"), null);
});

/** Changes a share of a text's words. */
function changed(text: readonly string[], options: { draws: Draws; share: number }): string[] {
  const { draws, share } = options;
  return text.map((word) =>
    draws.chance(share) ? `${draws.pick(WORDS)}x${draws.integer(0, 9)}` : word
  );
}

/** Shared runs of three words among all of them. */
function jaccard(a: readonly string[], b: readonly string[]): number {
  const runs = (text: readonly string[]) =>
    new Set(text.slice(2).map((_, i) => text.slice(i, i + 3).join(" ")));
  const [x, y] = [runs(a), runs(b)];
  const shared = x.intersection(y).size;
  return shared / (x.size + y.size - shared);
}

Deno.test("near-duplicates are found, and texts that share little are not", () => {
  const index = new DuplicateIndex({ near: 0.7, words: 3, hashes: 64, window: 5000 });
  const draws = new Draws("near duplicates");
  const texts = Array.from({ length: 500 }, () => words(draws, 120));
  for (const text of texts) {
    const print = index.fingerprint(text.join(" "));
    assertEquals(index.find(print), null);
    index.add(print);
  }
  const tally = { alike: 0, alikeFound: 0, unlike: 0, unlikeFound: 0 };
  for (const text of texts) {
    for (const share of [0.01, 0.02, 0.05, 0.1, 0.3]) {
      const other = changed(text, { draws, share });
      const likeness = jaccard(text, other);
      const isFound = index.find(index.fingerprint(other.join(" "))) !== null;
      // The estimate of 64 values is off by some 0.05, one time of three by more.
      if (likeness >= 0.82) {
        tally.alike++;
        if (isFound) tally.alikeFound++;
      } else if (likeness <= 0.5) {
        tally.unlike++;
        if (isFound) tally.unlikeFound++;
      }
    }
  }
  assert(tally.alike > 500 && tally.unlike > 500, JSON.stringify(tally));
  assert(tally.alikeFound / tally.alike > 0.97, JSON.stringify(tally));
  assert(tally.unlikeFound / tally.unlike < 0.01, JSON.stringify(tally));
  assertEquals(
    index.find(index.fingerprint(texts[7].join("\n ").toUpperCase())),
    "exact duplicate",
  );
});

Deno.test("what lies behind the window is forgotten, and what was kept apart and read again is the same", () => {
  const options = { near: 0.8, words: 2, hashes: 16, window: 50 };
  const draws = new Draws("window");
  const pool = Array.from({ length: 120 }, () => words(draws, 30));
  const rows = Array.from(
    { length: 600 },
    () => changed(draws.pick(pool), { draws, share: draws.pick([0, 0, 0.03, 0.5]) }).join(" "),
  );
  const index = new DuplicateIndex(options);
  const kept: Uint32Array[] = [];
  const verdicts: (string | null)[] = [];
  for (const [i, row] of rows.entries()) {
    if (i % 97 === 0) {
      // As on resuming: only the last rows are read again.
      const first = Math.max(0, kept.length - options.window);
      const again = new DuplicateIndex(options, { first });
      for (const print of kept.slice(first)) again.add(print);
      for (const later of rows.slice(i, i + 40)) {
        assertEquals(again.find(again.fingerprint(later)), index.find(index.fingerprint(later)));
      }
    }
    const print = index.fingerprint(row);
    const verdict = index.find(print);
    verdicts.push(verdict);
    if (verdict !== null) continue;
    index.add(print);
    kept.push(print);
  }
  for (const verdict of ["exact duplicate", "near duplicate", null]) {
    assert(verdicts.filter((each) => each === verdict).length > 20, `${verdict} is too rare`);
  }
  assertEquals(index.find(kept[0]), null, "the first row is long forgotten");
});

Deno.test("exact duplicates are found without signatures, too", () => {
  const index = new DuplicateIndex({ near: null, words: 5, hashes: 64, window: 10 });
  index.add(index.fingerprint("One text."));
  assertEquals(index.find(index.fingerprint(" one  TEXT. ")), "exact duplicate");
  assertEquals(index.find(index.fingerprint("Another text.")), null);
});
