/** Figures of metrics: what is read, which panels there are, and where points lie. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { FormatError } from "../../src/errors.ts";
import { drawFigure } from "../../src/plot/figure.ts";
import { type Panel, panelsOf } from "../../src/plot/panels.ts";
import { readRunMetrics } from "../../src/plot/run_metrics.ts";

type Line = Readonly<Record<string, number | string>>;

const jsonl = (lines: readonly Line[]) => lines.map((line) => `${JSON.stringify(line)}\n`).join("");

const RUN: readonly Line[] = [
  { phase: "cold_start", step: 1, loss: 8, tokens_per_second: 1000 },
  { phase: "cold_start", step: 2, loss: 4, tokens_per_second: 1000 },
  { phase: "cold_start", step: 2, "eval/accuracy": 0.5, "eval/example": "1 + 1?\n3" },
  { phase: "grpo", step: 1, loss: 0.1, reward: 0.25, "rewards/format/mean": 1, kl: 0 },
  { phase: "grpo", step: 2, loss: -0.1, reward: 0.5, "rewards/format/mean": 1, kl: 0.01 },
  { phase: "grpo", step: 3, loss: 0, reward: 1, "rewards/format/mean": 1, kl: 0.02 },
  { phase: "grpo", step: 3, "eval/accuracy": 1 },
  { phase: "rejection", step: 1, loss: 2, tokens_per_second: 500 },
];

const pointsOf = (panels: readonly Panel[], title: string) =>
  panels.find((panel) => panel.title === title)?.series.map(({ name, points }) => [
    name,
    points.filter(([, value]) => Number.isFinite(value)),
  ]);

Deno.test("the steps of phases follow each other, and what is being written is left out", () => {
  const run = readRunMetrics(`${jsonl(RUN)}{"phase":"rejection","st`);
  assertEquals(run.phases, [
    { name: "cold_start", from: 0, to: 2 },
    { name: "grpo", from: 2, to: 5 },
    { name: "rejection", from: 5, to: 6 },
  ]);
  assertEquals(run.lines.map(({ at }) => at), [1, 2, 2, 3, 4, 5, 5, 6]);
  assertEquals(run.lines[2].example, "1 + 1?\n3");
  assertEquals(readRunMetrics(""), { lines: [], phases: [] });
  for (const wrong of ["[]", "{}", '{"phase":"a"}', '{"phase":"a","step":0.5}', "x"]) {
    assertThrows(
      () => readRunMetrics(`${jsonl(RUN)}${wrong}\n`),
      FormatError,
      "line 9",
    );
  }
});

Deno.test("there is a panel for what the run has, and the losses of texts and of answers are apart", () => {
  const panels = panelsOf(readRunMetrics(jsonl(RUN)), { gates: { grpo: 0.9 } });
  assertEquals(panels.map(({ title }) => title), [
    ...["Loss of texts", "Held-out problems solved", "Reward", "Policy loss"],
    ...["KL to the reference (k3, nats)", "Tokens per second"],
  ]);
  assertEquals(pointsOf(panels, "Loss of texts"), [["loss", [[1, 8], [2, 4], [6, 2]]]]);
  assertEquals(pointsOf(panels, "Policy loss"), [["loss", [[3, 0.1], [4, -0.1], [5, 0]]]]);
  assertEquals(pointsOf(panels, "Reward"), [
    ["reward", [[3, 0.25], [4, 0.5], [5, 1]]],
    ["format", [[3, 1], [4, 1], [5, 1]]],
  ]);
  assertEquals(pointsOf(panels, "Held-out problems solved"), [["accuracy", [[2, 0.5], [5, 1]]]]);
  assertEquals(panels[1].levels, { grpo: 0.9 });
});

Deno.test("long phases are drawn as means of stretches, and keep their last step", () => {
  const lines = Array.from({ length: 1500 }, (_, i) => ({
    ...{ phase: "cold_start", step: i + 1, loss: i % 2 },
  }));
  const [[, points]] = pointsOf(panelsOf(readRunMetrics(jsonl(lines))), "Loss of texts")!;
  const values = points as unknown as [number, number][];
  assertEquals([values.length, values[0][0], values.at(-1)![0]], [300, 5, 1500]);
  assert(values.every(([, value]) => value === 0.4 || value === 0.6));
});

/** Fails where tags don't match or a number is none; the texts of `<text>` otherwise. */
function textsOf(svg: string): string[] {
  const open: string[] = [];
  for (const [, close, name, rest] of svg.matchAll(/<(\/?)([a-z]+)([^>]*)>/g)) {
    if (close === "/") assertEquals(open.pop(), name);
    else if (!rest.endsWith("/")) open.push(name);
  }
  assertEquals(open, []);
  assert(!/NaN|Infinity|undefined/.test(svg), "a number that is none");
  return [...svg.matchAll(/<text[^>]*>([^<]*)</g)].map(([, text]) => text);
}

Deno.test("a figure is whole XML with titles, phases, legends and last values", () => {
  const run = readRunMetrics(jsonl(RUN));
  const panels = panelsOf(run, { gates: { grpo: 0.9 } });
  const svg = drawFigure({ title: "a < b & c", panels, phases: run.phases });
  const texts = textsOf(svg);
  for (const { title } of panels) assert(texts.includes(title), title);
  for (const text of ["a &lt; b &amp; c", "cold_start", "grpo", "reward 1", "kl 0.02"]) {
    assert(texts.includes(text), text);
  }
  assert(svg.includes("the gate of grpo: 0.9"));
  assert(!/ style=|<style|<script/.test(svg), "pages forbid styles");
  // One column is as wide as a panel, and all panels lie below each other.
  const narrow = drawFigure({ panels, phases: run.phases, columns: 1 });
  assert(textsOf(narrow).length > 0 && narrow.includes('width="400" height="1500"'));
});

Deno.test("points lie where their values are, and a phase's line ends with it", () => {
  const run = readRunMetrics(jsonl(RUN));
  const panels = panelsOf(run).filter(({ title }) => title === "Reward");
  const svg = drawFigure({ panels, phases: run.phases });
  // Steps 2 to 5 of the run over 334 pixels, rewards of 0 to 1 from below to the top.
  const [, path] = /<path d="(M[^"]*)" fill="none" stroke="#0072b2"/.exec(svg)!;
  const points = [...path.matchAll(/([\d.]+),([\d.]+)/g)].map(([, x, y]) => [Number(x), Number(y)]);
  assertEquals(points.map(([x]) => x), [163.3, 274.7, 386]);
  const [low, middle, top] = points.map(([, y]) => y);
  assert(Math.abs((low - top) - 3 * (middle - top) / 2) < 0.2, `${[low, middle, top]}`);
  const losses = panelsOf(run).filter(({ title }) => title === "Loss of texts");
  const broken = drawFigure({ panels: losses, phases: run.phases });
  assertEquals(/<path d="(M[^"]*)" fill="none"/.exec(broken)![1].match(/M/g)!.length, 2);
});

Deno.test("runs whose values are all the same, or of one step, have axes all the same", () => {
  for (const value of [0, 1, -3, 1e-9, 1e9]) {
    const run = readRunMetrics(jsonl([{ phase: "a", step: 1, loss: value, grad_norm: value }]));
    const texts = textsOf(drawFigure({ panels: panelsOf(run), phases: run.phases }));
    assert(texts.includes("Loss of texts"));
  }
});
