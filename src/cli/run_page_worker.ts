/** The thread of a run's live page: it hears how the run goes, and reads its metrics from the disk. */

import { createRunPage } from "../../routes/run_page.ts";
import { drawFigure } from "../plot/figure.ts";
import { panelsOf } from "../plot/panels.ts";
import { readRunMetrics, type RunMetrics } from "../plot/run_metrics.ts";
import { serve, type Server } from "../server/serve.ts";
import { METRICS_FILE } from "../training/run/metrics.ts";
import type { RunProgress } from "../training/run/job.ts";
import type { Outcome, PageNews, PageOrder } from "./run_page.ts";
import { errorLine } from "./terminal.ts";

const ASSETS = ["index.html", "run.css", "run.js"];
const UI = new URL("../../ui/run/", import.meta.url);
/** Events that the page lists. */
const MOST_EVENTS = 30;
/** Who has asked within this time hears of the end. */
const WATCHING_MS = 5000;
/** Milliseconds that they get to ask once more. */
const FAREWELL_MS = 3000;

type Opening = Extract<PageOrder, { type: "open" }>;

class Page {
  readonly #opening: Opening;
  readonly #file: string;
  readonly #events: string[] = [];
  #progress: RunProgress | null = null;
  #outcome: Outcome | null = null;
  #asked = -Infinity;
  #onAsked: () => void = () => {};
  #metrics: { bytes: number; run: RunMetrics } = { bytes: 0, run: { lines: [], phases: [] } };

  constructor(opening: Opening) {
    this.#opening = opening;
    this.#file = `${opening.state}/${METRICS_FILE}`;
  }

  async open(): Promise<Server> {
    const texts = ASSETS.map(async (name) =>
      [`/${name}`, await Deno.readTextFile(new URL(name, UI))] as const
    );
    const app = createRunPage({
      assets: new Map(await Promise.all(texts)),
      state: () => this.#state(),
      figure: (columns) => this.#figure(columns),
    });
    return await serve({
      fetch: (request) => app.fetch(request),
      hostname: "127.0.0.1",
      port: this.#opening.port,
    });
  }

  step(progress: RunProgress): void {
    this.#progress = progress;
  }

  event(line: string): void {
    this.#events.push(line);
    if (this.#events.length > MOST_EVENTS) this.#events.shift();
  }

  /** Resolves once whoever looks on has been told, or does not ask any more. */
  async end(outcome: Outcome): Promise<void> {
    this.#outcome = outcome;
    if (performance.now() - this.#asked > WATCHING_MS) return;
    let timer: ReturnType<typeof setTimeout> | undefined;
    await new Promise<void>((resolve) => {
      this.#onAsked = resolve;
      timer = setTimeout(resolve, FAREWELL_MS);
    });
    clearTimeout(timer);
    // The figure is asked for behind the state.
    await new Promise((resolve) => setTimeout(resolve, FAREWELL_MS / 10));
  }

  #state() {
    this.#asked = performance.now();
    this.#onAsked();
    const { name, phases } = this.#opening;
    const { bytes, run } = this.#read();
    const accuracyOf = (phase: string) =>
      run.lines.findLast((line) => line.phase === phase && "eval/accuracy" in line.values)
        ?.values["eval/accuracy"] ?? null;
    const doneOf = (phase: string) => {
      const span = run.phases.find(({ name }) => name === phase);
      return span === undefined ? 0 : span.to - span.from;
    };
    return {
      ...{ name, bytes, progress: this.#progress, outcome: this.#outcome, events: this.#events },
      phases: phases.map((phase) => ({
        ...{ ...phase, done: doneOf(phase.name), accuracy: accuracyOf(phase.name) },
      })),
      example: run.lines.findLast(({ example }) => example !== undefined)?.example ?? null,
    };
  }

  #figure(columns: number): string | null {
    const { run } = this.#read();
    const gates = Object.fromEntries(this.#opening.phases.map(({ name, gate }) => [name, gate]));
    const panels = panelsOf(run, { gates });
    return panels.length === 0 ? null : drawFigure({ panels, phases: run.phases, columns });
  }

  /** The metrics so far; read again where the file has grown. */
  #read() {
    try {
      const { size } = Deno.statSync(this.#file);
      if (size !== this.#metrics.bytes) {
        const run = readRunMetrics(Deno.readTextFileSync(this.#file));
        this.#metrics = { bytes: size, run };
      }
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
    return this.#metrics;
  }
}

const thread = self as unknown as {
  onmessage: (event: MessageEvent<PageOrder>) => void;
  postMessage(news: PageNews): void;
};

let page: Page;
let server: Server | undefined;

thread.onmessage = async ({ data }) => {
  switch (data.type) {
    case "open":
      page = new Page(data);
      try {
        server = await page.open();
        thread.postMessage({ type: "listening", url: `${server.url}/` });
      } catch (error) {
        thread.postMessage({ type: "failed", message: errorLine(error) });
      }
      return;
    case "progress":
      return page.step(data.progress);
    case "event":
      return page.event(data.line);
    case "end":
      await page.end(data.outcome);
      await server?.drain({ deadlineMs: 200, graceMs: 100 });
      thread.postMessage({ type: "closed" });
  }
};
