import { assert, assertEquals } from "@std/assert";
import { snapshot, withFolder } from "../data/_corpus.ts";
import { makeCorpus, metricsOf, shortRecipe } from "./_run.ts";

const CLI = new URL("../../../src/cli/train.ts", import.meta.url).pathname;

/** What holds times, and so differs from run to run. */
const TIMED = ["metrics.jsonl", "cost.json", "run.json"];

/** Runs the command; it is killed as soon as `killAt` says so of the lines of metrics that are there. */
async function run(
  folder: string,
  options: { state: string; resume?: boolean; killAt?: number },
): Promise<{ success: boolean; out: string; errors: string }> {
  const { state, resume = false, killAt } = options;
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--no-check", CLI, "--recipe", `${folder}/recipe.json`],
      ...["--state", `${folder}/${state}`, "--threads", "1", ...(resume ? ["--resume"] : [])],
    ],
    ...{ stdin: "null", stdout: "piped", stderr: "piped" },
  }).spawn();
  let ended = false;
  const watch = (async () => {
    while (killAt !== undefined && !ended) {
      if (linesOf(`${folder}/${state}`) >= killAt) {
        try {
          child.kill("SIGKILL");
        } catch {
          // It ended on its own in the meantime.
        }
        return;
      }
      await new Promise((done) => setTimeout(done, 3));
    }
  })();
  const { success, stdout, stderr } = await child.output();
  ended = true;
  await watch;
  const decoder = new TextDecoder();
  return { success, out: decoder.decode(stdout), errors: decoder.decode(stderr) };
}

function linesOf(state: string): number {
  try {
    return Deno.readTextFileSync(`${state}/metrics.jsonl`).split("\n").length - 1;
  } catch {
    return 0;
  }
}

Deno.test("a run that is killed at any moment and resumed ends with the state of one that ran through", async () => {
  await withFolder(async (folder) => {
    await makeCorpus(folder);
    await Deno.writeTextFile(`${folder}/recipe.json`, JSON.stringify(shortRecipe()));
    const whole = await run(folder, { state: "whole" });
    assert(whole.success, whole.errors);
    const lines = linesOf(`${folder}/whole`);
    const moments = [1, 8, lines - 10, lines - 6, lines - 3, lines - 1];
    let kills = 0;
    let killed = await run(folder, { state: "killed", killAt: moments[0] });
    while (!killed.success) {
      assertEquals(killed.errors.replace(/.*Download.*\n/g, ""), "", "it failed by itself");
      kills++;
      const killAt = moments.at(kills);
      killed = await run(folder, {
        ...{ state: "killed", resume: true },
        ...(killAt !== undefined && { killAt }),
      });
    }
    assert(kills >= 4, `killed ${kills} times`);
    const hash = (out: string) => out.trimEnd().split("\n").at(-1);
    assertEquals(hash(killed.out), hash(whole.out));
    const files = async (state: string) => {
      const all = await snapshot(`${folder}/${state}`);
      for (const name of TIMED) delete all[name];
      return all;
    };
    assertEquals(await files("killed"), await files("whole"));
    // Each step is told once.
    const steps = (state: string) => {
      Deno.renameSync(`${folder}/${state}`, `${folder}/state`);
      const told = metricsOf(folder).map((line) => {
        const { step_time: _time, tokens_per_second: _speed, ...rest } = line;
        return rest;
      });
      Deno.renameSync(`${folder}/state`, `${folder}/${state}`);
      return told;
    };
    assertEquals(steps("killed"), steps("whole"));
  });
});
