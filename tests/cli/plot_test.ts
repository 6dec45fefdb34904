import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { main } from "../../src/cli/plot.ts";
import { FormatError, OptionError } from "../../src/errors.ts";
import { recordedIo } from "./_io.ts";

const LINES = [1, 2, 3].map((step) => JSON.stringify({ phase: "a", step, loss: 1 / step }));

async function withRun(use: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/metrics.jsonl`, `${LINES.join("\n")}\n`);
    await use(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function plot(...args: string[]): Promise<string> {
  const io = recordedIo();
  assertEquals(await main(args, { io }), 0);
  return io.out();
}

Deno.test("plot draws the metrics of a state or of a file, beside them or where it is told", async () => {
  await withRun(async (folder) => {
    assertEquals(await plot(folder), `${folder}/metrics.svg: 1 panels of 3 steps\n`);
    const svg = await Deno.readTextFile(`${folder}/metrics.svg`);
    assertStringIncludes(svg, `>${folder.split("/").at(-1)}</text>`);
    await plot(`${folder}/metrics.jsonl`, "--out", `${folder}/other.svg`, "--title", "Mine");
    assertStringIncludes(await Deno.readTextFile(`${folder}/other.svg`), ">Mine</text>");
    assertStringIncludes(await plot("--help"), "--out FILE.svg");
  });
});

Deno.test("plot says what is wrong where there is nothing to draw", async () => {
  await withRun(async (folder) => {
    await assertRejects(() => plot(`${folder}/none`), OptionError, "has no metrics, must be");
    await Deno.writeTextFile(`${folder}/empty.jsonl`, "");
    await assertRejects(() => plot(`${folder}/empty.jsonl`), OptionError, "holds no step yet");
    await Deno.writeTextFile(`${folder}/other.jsonl`, "{}\n");
    await assertRejects(() => plot(`${folder}/other.jsonl`), FormatError, "line 1");
  });
});

Deno.test("neither the server nor a run without a page loads what draws", async () => {
  for (const name of ["start.ts", "train.ts"]) {
    const file = new URL(`../../src/cli/${name}`, import.meta.url).pathname;
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["info", "--json", file],
    }).output();
    const { modules } = JSON.parse(new TextDecoder().decode(stdout));
    const specifiers: string[] = modules.map(({ specifier }: { specifier: string }) => specifier);
    assert(specifiers.length > 50);
    assertEquals(specifiers.filter((specifier) => /d3-|\/src\/plot\//.test(specifier)), []);
  }
});
