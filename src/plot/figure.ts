/**
 * Panels as one SVG. Colours and sizes are attributes, not styles, so that a page whose policy forbids
 * styles can hold it.
 */

// @ts-types="npm:@types/d3-scale@4.0.9"
import { scaleLinear, scaleLog } from "d3-scale";
// @ts-types="npm:@types/d3-shape@3.2.0"
import { area, line } from "d3-shape";
import { lastOf, type Panel, type Point, type Series } from "./panels.ts";
import type { PhaseSpan } from "./run_metrics.ts";

const COLUMNS = 3;
const WIDTH = 400;
const HEIGHT = 250;
/** Around a panel's axes; above them stand its title, its legend and the names of the phases. */
const MARGIN = Object.freeze({ left: 52, right: 14, bottom: 30 });
const TITLE = 22;
const LEGEND_ROW = 12;
const PHASE_ROW = 14;
const HEAD = 44;
/** Okabe and Ito's, which people who see colours otherwise tell apart; then darker ones of the same. */
const COLOURS = [
  ...["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"],
  ...["#00446b", "#803800", "#005f45", "#7a4864", "#8a5f00", "#33698c", "#8c8c8c"],
];
const INK = "#222222";
const FAINT = "#6b6b6b";
const GRID = "#e3e3e3";
const SHADE = "#f4f6f8";

/** Size of legends and phases, and how wide a character of it is at most, on average. */
const SMALL = 9.5;
const SMALL_CHAR = 5.7;

/** Widest relation of values that a linear axis shows. */
const WIDE = 30;

interface Axes {
  /** The upper end. */
  readonly top: number;
  readonly x: (at: number) => number;
  readonly y: (value: number) => number;
  readonly xTicks: readonly number[];
  readonly yTicks: readonly { readonly value: number; readonly label: string }[];
}

export interface FigureOptions {
  /** What stands above; nothing does where it is left out. */
  readonly title?: string;
  readonly panels: readonly Panel[];
  readonly phases: readonly PhaseSpan[];
  /** Panels beside each other, 3 by default. */
  readonly columns?: number;
}

/** The figure as the text of an SVG file. */
export function drawFigure(options: FigureOptions): string {
  const { title, panels, phases } = options;
  const columns = Math.max(1, Math.min(options.columns ?? COLUMNS, panels.length));
  const head = title === undefined ? 0 : HEAD;
  const width = columns * WIDTH;
  const height = head + Math.ceil(panels.length / columns) * HEIGHT;
  const body = panels.map((panel, i) => {
    const [left, top] = [(i % columns) * WIDTH, head + Math.floor(i / columns) * HEIGHT];
    return `<g transform="translate(${left} ${top})">${drawPanel(panel, phases)}</g>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" ` +
    `viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="11" ` +
    `fill="${INK}" role="img" aria-label="metrics of the run">`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    ...title === undefined
      ? []
      : [text([MARGIN.left, 28], title, `font-size="17" font-weight="600"`)],
    ...body,
    "</svg>\n",
  ].join("\n");
}

function drawPanel(panel: Panel, phases: readonly PhaseSpan[]): string {
  const shown = phasesOf(panel, phases);
  const { entries, rows } = legend(panel);
  const axes = axesOf(panel, { phases: shown, top: TITLE + rows * LEGEND_ROW + PHASE_ROW });
  const { x, y, xTicks, yTicks } = axes;
  const [right, bottom] = [WIDTH - MARGIN.right, HEIGHT - MARGIN.bottom];
  return [
    text([MARGIN.left, 18], panel.title, `font-size="13" font-weight="600"`),
    entries,
    ...shown.map((phase, i) => drawPhase(phase, { axes, isShaded: i % 2 === 1 })),
    ...yTicks.map(({ value, label }) =>
      `<path d="M${MARGIN.left} ${round(y(value))}H${right}" stroke="${GRID}"/>` +
      text([MARGIN.left - 6, y(value) + 4], label, `text-anchor="end" fill="${FAINT}"`)
    ),
    ...xTicks.map((at) =>
      text([x(at), bottom + 15], `${at}`, `text-anchor="middle" fill="${FAINT}"`)
    ),
    text([right, HEIGHT - 3], "step", `text-anchor="end" fill="${FAINT}"`),
    `<path d="M${MARGIN.left} ${bottom}H${right}" stroke="${FAINT}"/>`,
    ...shown.map((phase) => drawLevel(phase, { panel, axes })),
    drawBand(panel, axes),
    // The first, which the others explain, lies on top.
    ...panel.series.map((series, i) => drawSeries(series, { axes, panel, i })).reverse(),
  ].join("");
}

/** The phases from the first to the last that the panel has points of. */
function phasesOf({ series }: Panel, phases: readonly PhaseSpan[]): readonly PhaseSpan[] {
  const places = series.flatMap(({ points }) =>
    points.filter(([, value]) => Number.isFinite(value)).map(([at]) => at)
  );
  const [least, most] = extentOf(places);
  return phases.filter(({ from, to }) => to >= least && from < most);
}

function axesOf(
  panel: Panel,
  { phases, top }: { phases: readonly PhaseSpan[]; top: number },
): Axes {
  const values = [...panel.series, ...panel.band ?? []]
    .flatMap(({ points }) => points.map(([, value]) => value)).filter(Number.isFinite);
  const [least, most] = extentOf([...values, ...panel.includes]);
  const [from, to] = [phases[0]?.from ?? 0, phases.at(-1)?.to ?? 1];
  const x = scaleLinear([from, Math.max(to, from + 1)], [MARGIN.left, WIDTH - MARGIN.right]);
  const range = [HEIGHT - MARGIN.bottom, top];
  const isLog = panel.wide && least > 0 && most / least > WIDE;
  const pad = least === most ? Math.abs(least) / 10 || 1 : 0;
  const y = isLog
    ? scaleLog([least, most], range).nice()
    : scaleLinear([least - pad, most + pad], range).nice(5);
  const format = y.tickFormat(5, isLog ? "~g" : most >= 10_000 ? "~s" : undefined);
  const yTicks = y.ticks(5).map((value) => ({ value, label: value === 0 ? "0" : format(value) }));
  return {
    ...{ top, x, y, xTicks: x.ticks(5).filter(Number.isInteger) },
    // A logarithmic scale has ticks that it wants no label on.
    yTicks: yTicks.filter(({ label }) => label !== ""),
  };
}

function drawPhase(
  { name, from, to }: PhaseSpan,
  { axes: { x, top }, isShaded }: { axes: Axes; isShaded: boolean },
): string {
  const [left, right] = [x(from), x(to)];
  const height = HEIGHT - MARGIN.bottom - top;
  const fits = right - left > SMALL_CHAR * name.length;
  return [
    `<rect x="${round(left)}" y="${top}" width="${round(Math.max(0, right - left))}" ` +
    `height="${height}" fill="${isShaded ? SHADE : "none"}"><title>${escaped(name)}</title></rect>`,
    `<path d="M${round(left)} ${top - 9}v${height + 9}" stroke="${FAINT}" stroke-dasharray="2 3"/>`,
    fits ? text([left + 3, top - 3], name, `font-size="${SMALL}" fill="${FAINT}"`) : "",
  ].join("");
}

function drawLevel(
  { name, from, to }: PhaseSpan,
  { panel, axes: { x, y } }: { panel: Panel; axes: Axes },
): string {
  const level = panel.levels[name];
  if (level === undefined || level === 0) return "";
  return `<path d="M${round(x(from))} ${round(y(level))}H${round(x(to))}" stroke="${INK}" ` +
    `stroke-dasharray="6 4"><title>the gate of ${escaped(name)}: ${level}</title></path>`;
}

function drawBand({ band, series }: Panel, { x, y }: Axes): string {
  if (band === undefined) return "";
  const [lower, upper] = band;
  const shape = area<Point>()
    .defined(([, value]) => Number.isFinite(value))
    .x(([at]) => x(at))
    .y0((_, i) => y(lower.points[i][1]))
    .y1(([, value]) => y(value));
  const name = `${lower.name} to ${upper.name}`;
  const colour = COLOURS[series.length % COLOURS.length];
  return `<path d="${shape.digits(1)(upper.points)}" fill="${colour}" fill-opacity="0.18">` +
    `<title>${escaped(name)}</title></path>`;
}

function drawSeries(
  { name, points }: Series,
  { axes: { x, y }, panel, i }: { axes: Axes; panel: Panel; i: number },
): string {
  const colour = COLOURS[i % COLOURS.length];
  const path = line<Point>()
    .defined(([, value]) => Number.isFinite(value))
    .x(([at]) => x(at))
    .y(([, value]) => y(value))
    .digits(1);
  const width = i === 0 ? 1.6 : 1.1;
  const drawn =
    `<path d="${path(points)}" fill="none" stroke="${colour}" stroke-width="${width}" ` +
    `stroke-linejoin="round"><title>${escaped(name)}</title></path>`;
  const marks = points.filter(([, value], at) =>
    Number.isFinite(value) && (panel.marked || isAlone(points, at))
  );
  return drawn +
    marks.map(([at, value]) =>
      `<circle cx="${round(x(at))}" cy="${round(y(value))}" r="${i === 0 ? 3 : 2}" ` +
      `fill="${colour}"><title>${escaped(`${name} ${short(value)} at step ${at}`)}</title></circle>`
    ).join("");
}

/** A point between breaks is no line. */
function isAlone(points: readonly Point[], at: number): boolean {
  return [at - 1, at + 1].every((other) => !Number.isFinite(points[other]?.[1]));
}

/** Names with their last values, in as many rows as they take. */
function legend({ series, band }: Panel): { entries: string; rows: number } {
  const entries = series.map((each, i) => ({
    label: `${each.name} ${short(lastOf(each))}`,
    colour: COLOURS[i % COLOURS.length],
    opacity: 1,
  }));
  if (band !== undefined) {
    const label = band.map((each) => `${each.name} ${short(lastOf(each))}`).join(", ");
    entries.push({ label, colour: COLOURS[series.length % COLOURS.length], opacity: 0.3 });
  }
  let [left, row] = [MARGIN.left, 1];
  const drawn = entries.map(({ label, colour, opacity }) => {
    const width = 22 + label.length * SMALL_CHAR;
    if (left + width > WIDTH && left > MARGIN.left) [left, row] = [MARGIN.left, row + 1];
    const bottom = TITLE + row * LEGEND_ROW - 1;
    const entry = `<rect x="${round(left)}" y="${bottom - 6}" width="9" height="5" ` +
      `fill="${colour}" fill-opacity="${opacity}"/>` +
      text([left + 12, bottom], label, `font-size="${SMALL}"`);
    left += width;
    return entry;
  });
  return { entries: drawn.join(""), rows: row };
}

function extentOf(values: readonly number[]): [least: number, most: number] {
  return values.reduce(
    ([least, most], value) => [Math.min(least, value), Math.max(most, value)],
    [Infinity, -Infinity],
  );
}

function text([x, y]: readonly [number, number], content: string, attributes = ""): string {
  return `<text x="${round(x)}" y="${round(y)}" ${attributes}>${escaped(content)}</text>`;
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

/** Three digits that count. */
function short(value: number): string {
  return Math.abs(value) >= 1000
    ? Math.round(value).toLocaleString("en")
    : String(Number(value.toPrecision(3)));
}

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
};

function escaped(content: string): string {
  return content.replace(/[&<>"]/g, (char) => ENTITIES[char]);
}
