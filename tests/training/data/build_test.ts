import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { openFolder } from "../../../src/cli/data_folder.ts";
import { OptionError } from "../../../src/errors.ts";
import { corpusRows } from "../../../src/training/data/corpus.ts";
import { Draws } from "../../../src/training/data/draws.ts";
import { FAMILIES } from "../../../src/training/data/families/mod.ts";
import type { OutputFolder } from "../../../src/training/data/build/folder.ts";
import { buildCorpus } from "../../../src/training/data/build/build.ts";
import { DISK_FILES } from "../../../src/cli/data_folder.ts";
import { WORDS } from "../../../src/training/data/families/names.ts";
import { readRecipe } from "../../../src/training/data/recipe/recipe.ts";
import { hashText } from "../../../src/training/data/hash.ts";
import { generated, makeData, promptOf, rowsIn, snapshot, withFolder } from "./_corpus.ts";

const EVERY_FAMILY = FAMILIES.map(({ name }) => ({ name, generate: name, count: 150 }));

Deno.test("training and held-out rows share no problem, in any phrasing", async () => {
  await withFolder(async (folder) => {
    await makeData(folder, { recipe: generated(EVERY_FAMILY) });
    const [train, heldout] = [
      await rowsIn(`${folder}/out`, "train"),
      await rowsIn(`${folder}/out`, "heldout"),
    ];
    assertEquals(train.length, 150 * FAMILIES.length);
    assert(heldout.length > 100, `only ${heldout.length} rows are held out`);
    const trained = new Set(train.map(promptOf));
    for (const row of heldout) assert(!trained.has(promptOf(row)), promptOf(row));
    // Sums by their numbers, whichever way round and in whatever words.
    const sum = (row: typeof train[0]) => promptOf(row).match(/\d+/g)!.map(Number).sort().join(" ");
    const sums = new Set(train.filter(({ family }) => family === "addition").map(sum));
    const heldoutSums = heldout.filter(({ family }) => family === "addition").map(sum);
    assert(heldoutSums.length > 3);
    for (const each of heldoutSums) assert(!sums.has(each), each);
    assertEquals(new Set(heldout.map(promptOf)).size, heldout.length, "a held-out problem twice");
  });
});

Deno.test("the same recipe gives the same bytes, another seed other problems", async () => {
  await withFolder(async (folder) => {
    const sources = [{ name: "a", generate: "addition", count: 300 }, {
      name: "b",
      generate: "time",
      count: 100,
    }];
    await makeData(folder, { recipe: generated(sources), out: "one" });
    await makeData(folder, { recipe: generated(sources), out: "two" });
    await makeData(folder, { recipe: generated(sources, { seed: 4 }), out: "other" });
    assertEquals(await snapshot(`${folder}/one`), await snapshot(`${folder}/two`));
    const [one, other] = [
      await rowsIn(`${folder}/one`, "train"),
      await rowsIn(`${folder}/other`, "train"),
    ];
    assert(one.some((row, i) => promptOf(row) !== promptOf(other[i])));
  });
});

Deno.test("two sources of one family are different streams", async () => {
  await withFolder(async (folder) => {
    const source = { generate: "word_problem", count: 200 };
    await makeData(folder, {
      recipe: generated([{ ...source, name: "a" }, { ...source, name: "b" }]),
    });
    const rows = await rowsIn(`${folder}/out`, "train");
    const prompts = (name: string) => rows.filter(({ source }) => source === name).map(promptOf);
    const own = new Set(prompts("a"));
    assert(prompts("b").filter((prompt) => own.has(prompt)).length < 20);
  });
});

Deno.test("sources are mixed so that they end together", async () => {
  await withFolder(async (folder) => {
    const recipe = generated([
      { name: "many", generate: "addition", levels: [3, 6], count: 900 },
      { name: "few", generate: "subtraction", levels: [3, 6], count: 100 },
    ]);
    await makeData(folder, { recipe });
    const rows = await rowsIn(`${folder}/out`, "train");
    for (const part of [rows.slice(0, 500), rows.slice(500)]) {
      const few = part.filter(({ source }) => source === "few").length;
      assert(few >= 45 && few <= 55, `${few} of 500`);
    }
  });
});

Deno.test("a family that is used up ends with a note instead of never", async () => {
  await withFolder(async (folder) => {
    const source = { name: "greetings", generate: "outside", levels: [1, 1], count: 1000 };
    const recipe = generated([{ ...source, filters: { duplicates: true } }]);
    const text = await makeData(folder, { recipe });
    assertStringIncludes(text, "exact duplicate");
    assertStringIncludes(text, "of 1000 rows");
  });
});

Deno.test("rows are counted by what became of them", async () => {
  await withFolder(async (folder) => {
    const lines = [
      {
        question: "Tom has 3 apples and eats one. How many are left?",
        answer: "3 - 1 = <<3-1=2>>2\n#### 2",
      },
      {
        question: "Tom has 3 apples and eats one. How many are left?",
        answer: "3 - 1 = 2\n#### 2",
      },
      { question: "No answer here", answer: "none" },
    ];
    await Deno.writeTextFile(
      `${folder}/a.jsonl`,
      lines.map((line) => JSON.stringify(line)).join("\n") + "\nnot json\n\n",
    );
    const recipe = {
      name: "test",
      seed: 1,
      sources: [{ name: "gsm", read: "gsm8k", files: ["a.jsonl"], filters: { duplicates: true } }],
      split: { heldout: 0 },
    };
    await makeData(folder, { recipe });
    const report = JSON.parse(await Deno.readTextFile(`${folder}/out/report.json`));
    assertEquals(report.total.read, 4);
    assertEquals(report.total.train, 1);
    assertEquals(report.total.dropped, {
      "exact duplicate": 1,
      "no #### answer": 1,
      "not JSON": 1,
    });
    const [row] = await rowsIn(`${folder}/out`, "train");
    assertEquals(row.messages![1].content, "<think>\n3 - 1 = 2\n</think>\n\nThe answer is 2.");
    assertEquals(row.answer, "2");
  });
});

Deno.test("nothing of an evaluation set gets into training", async () => {
  await withFolder(async (folder) => {
    const question =
      "A farmer walks seven miles to the old mill every morning before the sun is up. How far is it in a week?";
    const record = (question: string) =>
      JSON.stringify({ question, answer: "7 * 7 = 49\n#### 49" });
    await Deno.writeTextFile(`${folder}/test.jsonl`, record(question));
    await Deno.writeTextFile(
      `${folder}/train.jsonl`,
      [
        record(question),
        record(`Listen. ${question.toUpperCase()} Tell me.`),
        record("A farmer walks seven miles to the old mill. How far is it in a week?"),
      ].join("\n"),
    );
    await makeData(folder, {
      recipe: {
        name: "test",
        seed: 1,
        sources: [{ name: "gsm", read: "gsm8k", files: ["train.jsonl"] }],
        evaluations: [{ read: "gsm8k", files: ["test.jsonl"] }],
        split: { heldout: 0 },
      },
    });
    const rows = await rowsIn(`${folder}/out`, "train");
    assertEquals(rows.map(({ id }) => id), ["gsm-2"]);
    const report = JSON.parse(await Deno.readTextFile(`${folder}/out/report.json`));
    assertEquals(report.total.dropped, {
      "prompt of an evaluation set": 1,
      "words of an evaluation set": 1,
    });
  });
});

Deno.test("a folder that holds something is not written to without --resume", async () => {
  await withFolder(async (folder) => {
    const recipe = generated([{ name: "a", generate: "addition", count: 20 }]);
    await makeData(folder, { recipe });
    const error = await assertRejects(() => makeData(folder, { recipe }), OptionError);
    assertStringIncludes(error.message, "--resume");
    const before = await snapshot(`${folder}/out`);
    await makeData(folder, { recipe, resume: true });
    assertEquals(await snapshot(`${folder}/out`), before);
    const other = generated([{ name: "a", generate: "addition", count: 21 }]);
    await assertRejects(
      () => makeData(folder, { recipe: other, resume: true }),
      OptionError,
      "another recipe",
    );
  });
});

Deno.test("a build that is stopped again and again ends with the same bytes", async () => {
  await withFolder(async (folder) => {
    const draws = new Draws("words of a long text");
    const words = Array.from({ length: 3000 }, () => draws.pick(WORDS));
    const lines = Array.from({ length: 400 }, (_, i) => {
      const from = hashText(`start ${i % 300}`) % (words.length - 60);
      return JSON.stringify({ text: words.slice(from, from + 60).join(" ") });
    });
    await Deno.writeTextFile(`${folder}/web.jsonl`, lines.join("\n"));
    const recipe = readRecipe(
      JSON.stringify(generated([
        { name: "sums", generate: "addition", count: 700 },
        {
          name: "web",
          read: "web",
          files: ["web.jsonl"],
          filters: { duplicates: true, length: {} },
        },
        { name: "stories", generate: "word_problem", count: 300, filters: { duplicates: true } },
      ], { shardRows: 150, duplicates: { near: 0.7, window: 200 } })),
      { file: "test", resolve: (path) => `${folder}/${path}` },
    );
    const options = (name: string, signal?: AbortSignal) => ({
      recipe,
      fingerprint: "same",
      folder: openFolder(`${folder}/${name}`),
      files: DISK_FILES,
      signal,
    });
    assert(await buildCorpus(options("whole")));
    let stops = 0;
    while (true) {
      // Stops after another number of rows each time, now and then after a single one.
      let rows = stops % 7 === 0 ? 1 : 31 + 17 * (stops % 5);
      const signal = {
        get aborted() {
          return rows-- <= 0;
        },
      } as AbortSignal;
      if (await buildCorpus(options("stopped", signal))) break;
      stops++;
      assert(stops < 500);
    }
    assert(stops > 10, `${stops} stops`);
    const reports = await Promise.all(
      ["stopped", "whole"].map((name) => Deno.readTextFile(`${folder}/${name}/report.json`)),
    );
    assertEquals(JSON.parse(reports[0]), JSON.parse(reports[1]));
    assertEquals(await snapshot(`${folder}/stopped`), await snapshot(`${folder}/whole`));
    const report = JSON.parse(await Deno.readTextFile(`${folder}/whole/report.json`));
    assert(report.total.dropped["exact duplicate"] > 5);
    assert(report.total.dropped["near duplicate"] > 20);
  });
});

/** A folder in which the n-th change fails, and every one after it: what a crash leaves behind. */
function crashing(folder: OutputFolder, crash: { after: number }): OutputFolder {
  const count = () => {
    if (crash.after-- <= 0) throw new Error("crash");
  };
  return {
    ...folder,
    write(name, bytes) {
      count();
      folder.write(name, bytes);
    },
    rename(from, to) {
      count();
      folder.rename(from, to);
      // The change is there, and nobody knows.
      count();
    },
    remove(name) {
      count();
      folder.remove(name);
    },
    append(name, length) {
      count();
      const file = folder.append(name, length);
      return {
        write(bytes) {
          // Half of it reaches the disk.
          if (crash.after <= 0) file.write(bytes.subarray(0, bytes.length >> 1));
          count();
          file.write(bytes);
        },
        sync() {
          count();
          file.sync();
        },
        close: () => file.close(),
      };
    },
  };
}

Deno.test("a crash between any two changes on the disk costs nothing but the work since", async () => {
  await withFolder(async (folder) => {
    const recipe = readRecipe(
      JSON.stringify(generated([
        { name: "sums", generate: "addition", levels: [1, 2], count: 24 },
        { name: "stories", generate: "word_problem", count: 12, filters: { duplicates: true } },
      ], { shardRows: 10, duplicates: { window: 10, hashes: 16 } })),
      { file: "test", resolve: (path) => path },
    );
    const build = (folder: OutputFolder) =>
      buildCorpus({ recipe, fingerprint: "x", folder, files: DISK_FILES, rowsPerPosition: 9 });
    await build(openFolder(`${folder}/whole`));
    const whole = await snapshot(`${folder}/whole`);
    let crashes = 0;
    for (;; crashes++) {
      const path = `${folder}/crash-${crashes}`;
      const crash = { after: crashes };
      const isDone = await build(crashing(openFolder(path), crash)).catch(({ message }) => {
        assertEquals(message, "crash");
        return false;
      });
      if (isDone) break;
      // Once more while resuming, a little later.
      await build(crashing(openFolder(path), { after: 9 })).catch(() => {});
      await build(openFolder(path));
      assertEquals(await snapshot(path), whole, `after ${crashes} changes`);
    }
    assert(crashes > 40, `${crashes} crashes`);
  });
});

Deno.test("rows are read back from anywhere", async () => {
  await withFolder(async (folder) => {
    const recipe = generated([{ name: "a", generate: "addition", count: 50 }], { shardRows: 20 });
    await makeData(folder, { recipe });
    const all = (await rowsIn(`${folder}/out`, "train")).map(({ id }) => id);
    for (const from of [0, 1, 19, 20, 45, 50]) {
      const rows = await Array.fromAsync(
        corpusRows(openFolder(`${folder}/out`), { side: "train", from }),
      );
      assertEquals(rows.map(({ id }) => id), all.slice(from));
    }
  });
});

Deno.test("a shard that was lost is not passed over in silence", async () => {
  await withFolder(async (folder) => {
    const recipe = readRecipe(
      JSON.stringify(
        generated([{ name: "a", generate: "addition", count: 100 }], { shardRows: 20 }),
      ),
      { file: "test", resolve: (path) => path },
    );
    let rows = 70;
    const build = (signal?: AbortSignal) =>
      buildCorpus({
        recipe,
        fingerprint: "x",
        folder: openFolder(`${folder}/out`),
        files: DISK_FILES,
        signal,
      });
    assertEquals(
      await build({
        get aborted() {
          return rows-- <= 0;
        },
      } as AbortSignal),
      false,
    );
    await Deno.remove(`${folder}/out/train-00001.jsonl`);
    await assertRejects(() => build(), Error, "train-00001.jsonl is missing");
  });
});
