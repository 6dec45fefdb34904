import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { main } from "../../src/cli/data.ts";
import { OptionError } from "../../src/errors.ts";
import { FAMILIES } from "../../src/training/data/families/mod.ts";
import { generated, rowsIn, withFolder } from "../training/data/_corpus.ts";
import { recordedIo } from "./_io.ts";

async function refusal(args: readonly string[]): Promise<string> {
  return (await assertRejects(() => main(args, { io: recordedIo() }), OptionError)).message;
}

Deno.test("show prints problems with their solutions, the same ones for a seed", async () => {
  const shown = async (...args: string[]) => {
    const io = recordedIo();
    assertEquals(await main(["show", "addition", "--count", "3", ...args], { io }), 0);
    return io.out();
  };
  const text = await shown("--level", "2", "--seed", "9");
  assertEquals(text.match(/<think>\n.*\n<\/think>\n\n\d+ \+ \d+ = \d+\.\n\n/g)?.length, 3);
  assertEquals(await shown("--level", "2", "--seed", "9"), text);
  assert(await shown("--level", "2", "--seed", "8") !== text);
  assertStringIncludes(await shown("--level", "2", "--notation", "reversed"), "~");
});

Deno.test("what is wrong with the command line is said", async () => {
  const unknown = await refusal(["show", "sums"]);
  for (const { name } of FAMILIES) assertStringIncludes(unknown, name);
  assertStringIncludes(await refusal(["show", "syllogism", "--level", "9"]), "at most 2");
  assertStringIncludes(await refusal(["make"]), '"make" is no command');
  assertStringIncludes(await refusal(["--out", "x"]), "--recipe is missing");
  assertStringIncludes(await refusal(["--recipe", "x"]), "--out is missing");
  assertStringIncludes(await refusal(["--recipe", "/nowhere.json", "--out", "x"]), "NotFound");
});

Deno.test("a recipe that names a missing file stops before anything is made", async () => {
  await withFolder(async (folder) => {
    const recipe = generated([{ name: "gsm", read: "gsm8k", files: ["missing.jsonl"] }]);
    await Deno.writeTextFile(`${folder}/recipe.json`, JSON.stringify(recipe));
    const args = ["--recipe", `${folder}/recipe.json`, "--out", `${folder}/out`];
    assertStringIncludes(await refusal(args), "missing.jsonl");
    assertStringIncludes(
      await refusal([...args, "--data", "/elsewhere"]),
      "/elsewhere/missing.jsonl",
    );
    assertEquals([...Deno.readDirSync(`${folder}/out`)], []);
  });
});

Deno.test("terminals see bars for rows, tokenizer and packing, and a table at the end", async () => {
  await withFolder(async (folder) => {
    const recipe = generated([{ name: "stories", generate: "word_problem", count: 1200 }], {
      tokenizer: { vocabulary: 320 },
      pack: { length: 256 },
    });
    await Deno.writeTextFile(`${folder}/recipe.json`, JSON.stringify(recipe));
    const io = recordedIo({ isTerminal: true });
    const args = ["--recipe", `${folder}/recipe.json`, "--out", `${folder}/out`];
    assertEquals(await main(args, { io }), 0);
    for (const label of ["test", "Tokenizer", "Packing"]) {
      assertStringIncludes(io.err(), `\r${label} `);
    }
    assertStringIncludes(io.err(), "100 % 1.2k rows");
    assert(/^stories +\d+ +1200 +\d+ /m.test(io.out()), io.out());
    assertStringIncludes(io.out(), "packed: 1.2k samples");
    assertEquals((await rowsIn(`${folder}/out`, "train")).length, 1200);
  });
});

Deno.test("Ctrl-C leaves a position, and --resume goes on from it", async () => {
  await withFolder(async (folder) => {
    const recipe = generated([{ name: "sums", generate: "addition", count: 300 }]);
    await Deno.writeTextFile(`${folder}/recipe.json`, JSON.stringify(recipe));
    const args = ["--recipe", `${folder}/recipe.json`, "--out", `${folder}/out`];
    const io = recordedIo();
    assertEquals(await main(args, { io, signal: AbortSignal.abort() }), 1);
    assertStringIncludes(io.err(), "--resume");
    assertEquals(await main([...args, "--resume"], { io }), 0);
    assertEquals((await rowsIn(`${folder}/out`, "train")).length, 300);
  });
});
