/** The process that `deno task start` starts, from its first moment to a right answer. */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { linesOf } from "../../src/cli/lines.ts";
import { ROOT } from "../support/fixtures.ts";

/** Nothing but a hang takes so long. */
const HANG_MS = 30_000;

/** The words of the task `start`, without its command's name. */
async function startArguments(): Promise<string[]> {
  const { tasks } = JSON.parse(await Deno.readTextFile(new URL("deno.json", ROOT)));
  const [command, ...words] = tasks.start.split(" ");
  assertEquals(command, "deno");
  return words.map((word: string) => word.replaceAll("'", ""));
}

const mayRun = Deno.permissions.querySync({ name: "run" }).state === "granted";
if (!mayRun) console.log("skipped: starting a process needs --allow-run");

Deno.test({
  name: "the process of `deno task start` answers a sum, with its reasoning, and ends when told to",
  ignore: !mayRun,
  async fn() {
    const args = [...await startArguments(), "--port", "0"];
    const start = performance.now();
    const child = new Deno.Command(Deno.execPath(), {
      args,
      cwd: ROOT,
      // Whoever runs the tests may serve another model.
      env: { SLUICE_MODEL: "", SLUICE_BACKEND: "", SLUICE_MEMORY: "", SLUICE_EXPERT_CACHE: "" },
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const kill = () => {
      try {
        child.kill("SIGKILL");
      } catch {
        // It has ended by itself.
      }
    };
    const hang = setTimeout(kill, HANG_MS);
    const lines = linesOf(child.stdout);
    try {
      const { value } = await lines.next();
      const serving = performance.now();
      const url = /http:\/\/127\.0\.0\.1:\d+/.exec(value ?? "")?.[0];
      assert(url !== undefined, `the process says ${JSON.stringify(value)}`);
      const response = await fetch(`${url}/v1/chat/completions`, {
        method: "POST",
        body: JSON.stringify({ messages: [{ role: "user", content: "What is 47 + 38?" }] }),
        signal: AbortSignal.timeout(HANG_MS),
      });
      assertEquals(response.status, 200);
      const { choices: [{ message }] } = await response.json();
      const answered = performance.now();
      assertStringIncludes(message.content, "85");
      assert(message.reasoning_content.length > 0, "there is reasoning");
      const seconds = (time: number) => ((time - start) / 1000).toFixed(2);
      console.log(`serving after ${seconds(serving)} s, answered after ${seconds(answered)} s`);
      assert(answered - start < HANG_MS);
      child.kill("SIGTERM");
      assertEquals((await child.status).code, 0);
    } finally {
      clearTimeout(hang);
      kill();
      await child.status;
      await lines.return(undefined);
    }
  },
});
