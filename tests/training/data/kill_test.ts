import { assert, assertEquals } from "@std/assert";
import { generated, snapshot, withFolder } from "./_corpus.ts";

const CLI = new URL("../../../src/cli/data.ts", import.meta.url).pathname;

async function run(folder: string, options: { out: string; resume?: boolean; killAfter?: number }) {
  const { out, resume = false, killAfter } = options;
  const args = ["run", "-A", "--no-check", CLI, "--recipe", `${folder}/recipe.json`];
  const child = new Deno.Command(Deno.execPath(), {
    args: [...args, "--out", `${folder}/${out}`, ...(resume ? ["--resume"] : [])],
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const timer = killAfter === undefined ? null : setTimeout(() => {
    try {
      child.kill("SIGKILL");
    } catch {
      // It ended on its own in the meantime.
    }
  }, killAfter);
  const { success, stderr } = await child.output();
  if (timer !== null) clearTimeout(timer);
  return { success, errors: new TextDecoder().decode(stderr) };
}

Deno.test("a command that is killed at any moment and resumed leaves the bytes of one that ran through", async () => {
  await withFolder(async (folder) => {
    const recipe = generated(
      [
        { name: "sums", generate: "addition", levels: [2, 6], count: 5000 },
        { name: "stories", generate: "word_problem", count: 3000, filters: { duplicates: true } },
        { name: "puzzles", generate: "countdown", count: 1500 },
      ],
      {
        shardRows: 1700,
        duplicates: { near: 0.95, window: 2000 },
        tokenizer: { vocabulary: 500 },
        pack: { length: 256, sequences: 300 },
      },
    );
    await Deno.writeTextFile(`${folder}/recipe.json`, JSON.stringify(recipe));
    const started = performance.now();
    const whole = await run(folder, { out: "whole" });
    assert(whole.success, whole.errors);
    const duration = performance.now() - started;
    let kills = 0;
    for (let resume = false;; resume = true) {
      // Later each time, so that every stage is met, and in the end it gets through.
      const killAfter = kills < 6 ? duration * (0.25 + 0.13 * kills) : undefined;
      const { success, errors } = await run(folder, { out: "killed", resume, killAfter });
      if (success) break;
      assertEquals(errors.replace(/.*Download.*\n/g, ""), "", "it failed by itself");
      kills++;
    }
    assert(kills >= 2, `killed ${kills} times`);
    const [killed, expected] = [
      await snapshot(`${folder}/killed`),
      await snapshot(`${folder}/whole`),
    ];
    assertEquals(killed, expected);
  });
});
