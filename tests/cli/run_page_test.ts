/** The live page of a run: its server, its thread, and what a browser makes of it. */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { createRunPage } from "../../routes/run_page.ts";
import { openRunPage } from "../../src/cli/run_page.ts";
import { OptionError } from "../../src/errors.ts";
import { withFolder } from "../training/data/_corpus.ts";
import { type Json, makeCorpus, readRecipe, shortRecipe } from "../training/run/_run.ts";

const CLI = new URL("../../src/cli/train.ts", import.meta.url).pathname;
const CHROMIUM = Deno.env.get("SLUICE_CHROMIUM") ?? "/usr/bin/chromium";
const hasChromium = (() => {
  try {
    return Deno.statSync(CHROMIUM).isFile;
  } catch {
    return false;
  }
})();

const LINES = [
  { phase: "cold_start", step: 1, loss: 5 },
  { phase: "cold_start", step: 2, loss: 4 },
  { phase: "cold_start", step: 2, "eval/accuracy": 0.25, "eval/example": "<b>1 + 1?</b>\n3" },
].map((line) => `${JSON.stringify(line)}\n`);

const PROGRESS = {
  ...{ phase: "cold_start", step: 2, steps: 50, metrics: { loss: 4 } },
  ...{ tokensPerSecond: 900, secondsLeft: 30 },
};

const stateOf = async (url: string): Promise<Json> =>
  await (await fetch(`${url}state.json`)).json();

/** The first state of which something holds: what the page is told and what it is asked go different ways. */
async function seen(url: string, holds: (state: Json) => boolean): Promise<Json> {
  while (true) {
    const state = await stateOf(url);
    if (holds(state)) return state;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A page about a run that has made two steps. */
async function withPage(use: (page: Awaited<ReturnType<typeof openRunPage>>) => Promise<void>) {
  await withFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/metrics.jsonl`, LINES.join(""));
    const recipe = readRecipe(shortRecipe());
    const page = await openRunPage({ recipe, state: folder, port: 0 });
    try {
      await use(page);
    } finally {
      const closed = page.close("stopped");
      // Who looks on hears of the end, which then waits no longer.
      await seen(page.url, ({ outcome }) => outcome === "stopped");
      await closed;
    }
  });
}

Deno.test("the page answers to this machine's names only, and allows nothing but its own files", async () => {
  const app = createRunPage({
    assets: new Map([["/index.html", "<p>"], ["/run.js", "1"]]),
    state: () => ({ bytes: 1 }),
    figure: (columns) => columns === 1 ? null : `<svg columns="${columns}"/>`,
  });
  const ask = (path: string, headers: HeadersInit = {}) => app.request(path, { headers });
  const page = await ask("/");
  assertEquals(page.headers.get("content-type"), "text/html; charset=utf-8");
  const policy = page.headers.get("content-security-policy")!;
  assertStringIncludes(policy, "default-src 'none'; script-src 'self'; style-src 'self'");
  assert(!policy.includes("unsafe"));
  assertEquals(await (await ask("/state.json")).json(), { bytes: 1 });
  assertEquals(await (await ask("/figure.svg")).text(), '<svg columns="3"/>');
  const statuses: [string, HeadersInit, number][] = [
    ["/run.js", {}, 200],
    ["/index.html", {}, 404],
    ["/figure.svg?columns=1", {}, 404],
    ["/figure.svg?columns=4", {}, 400],
    ["/..%2fdeno.json", {}, 404],
    ["/", { host: "evil.example" }, 403],
    ["/state.json", { origin: "https://evil.example" }, 403],
  ];
  for (const [path, headers, status] of statuses) {
    assertEquals((await ask(path, headers)).status, status, path);
  }
});

Deno.test("the page's thread tells how the run goes, draws what is on the disk, and ends with it", async () => {
  await withPage(async ({ url, onStep, onEvent }) => {
    assertEquals((await stateOf(url)).progress, null);
    onStep(PROGRESS);
    onEvent("cold_start: step 2");
    const { phases, ...state } = await seen(url, ({ events }) => events.length > 0);
    assertEquals(state, {
      ...{ name: "smoke", bytes: LINES.join("").length, progress: PROGRESS, outcome: null },
      ...{ events: ["cold_start: step 2"], example: "<b>1 + 1?</b>\n3" },
    });
    assertEquals(phases[0], {
      ...{ name: "cold_start", kind: "cold_start", steps: 50, gate: 0, share: 0.5 },
      ...{ done: 2, accuracy: 0.25 },
    });
    const figure = await (await fetch(`${url}figure.svg`)).text();
    assertStringIncludes(figure, ">Loss of texts</text>");
    const port = Number(new URL(url).port);
    await assertRejects(
      () => openRunPage({ recipe: readRecipe(shortRecipe()), state: "none", port }),
      OptionError,
      `${port}`,
    );
  });
});

Deno.test("a run with --serve says where its page is, shows it as it goes, and says there how it ended", async () => {
  await withFolder(async (folder) => {
    await makeCorpus(folder);
    const recipe = shortRecipe();
    recipe.phases = [{ ...recipe.phases[0], steps: 30, evaluateEvery: 15 }];
    await Deno.writeTextFile(`${folder}/recipe.json`, JSON.stringify(recipe));
    const run = new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--no-check", CLI, "--recipe", `${folder}/recipe.json`],
        ...["--state", `${folder}/state`, "--threads", "1", "--serve", "0"],
      ],
      ...{ stdin: "null", stdout: "piped", stderr: "null" },
    }).spawn();
    let out = "";
    const read = (async () => {
      for await (const text of run.stdout.pipeThrough(new TextDecoderStream())) out += text;
    })();
    const url = () => /^live at (\S+)$/m.exec(out)?.[1];
    const states: Json[] = [];
    while (states.at(-1)?.outcome !== "done") {
      await new Promise((resolve) => setTimeout(resolve, 20));
      if (url() !== undefined) states.push(await stateOf(url()!));
    }
    await read;
    assertEquals((await run.status).code, 0);
    assert(states.some(({ progress }) => progress !== null && progress.step < 30));
    const last = states.at(-1);
    assertEquals([last.progress.step, last.phases[0].done, last.events.length], [30, 30, 2]);
    await assertRejects(() => stateOf(url()!));
  });
});

Deno.test({
  name: `a browser shows the page under its policy${hasChromium ? "" : ` (no ${CHROMIUM})`}`,
  ignore: !hasChromium,
  fn: async () => {
    await withPage(async ({ url, onStep }) => {
      onStep(PROGRESS);
      const { stdout } = await new Deno.Command(CHROMIUM, {
        args: ["--headless", "--no-sandbox", "--virtual-time-budget=2500", "--dump-dom", url],
        stderr: "null",
        signal: AbortSignal.timeout(120_000),
      }).output();
      const page = new TextDecoder().decode(stdout);
      for (
        const part of [
          "cold_start: step 2 of 50, 30 s left",
          "25 % solved, gate open",
          "Loss of texts</text>",
          "&lt;b&gt;1 + 1?&lt;/b&gt;",
        ]
      ) assertStringIncludes(page, part);
    });
  },
});
