/** The routing of a text as a heat map in the terminal: a line a layer, a cell an expert. */

import type { RoutedLayerInfo, TokenRouting } from "../engine/types.ts";
import { summariseLoad } from "../engine/routing.ts";

/** How often each expert of each layer was chosen. */
export type Loads = readonly number[][];

/** Cells on a line; a layer with more experts takes several. */
const MOST_CELLS = 32;

/** Experts named below the map for each layer. */
const BUSIEST = 4;

/** Colours of the loads 1 to 9 of the terminal's 256, dark blue over violet and red to yellow. */
const HEAT: readonly number[] = Object.freeze([17, 18, 54, 90, 126, 161, 196, 208, 226]);

/** Zeros for each expert of each layer. */
export function noLoads(layers: readonly RoutedLayerInfo[]): Loads {
  return layers.map(({ experts }) => new Array<number>(experts).fill(0));
}

/** Adds what the gates chose for some tokens. */
export function addLoads(
  loads: Loads,
  { routing, layers }: { routing: TokenRouting; layers: readonly RoutedLayerInfo[] },
): void {
  let at = 0;
  while (at < routing.experts.length) {
    for (const [i, { topK }] of layers.entries()) {
      for (let j = 0; j < topK; j++) loads[i][routing.experts[at++]]++;
    }
  }
}

export interface RoutingMapOptions {
  readonly layers: readonly RoutedLayerInfo[];
  readonly loads: Loads;
  /** Tokens whose routing the loads count. */
  readonly tokens: { readonly prompt: number; readonly answer: number };
  /** Cells are coloured; digits otherwise. */
  readonly colour: boolean;
}

/** The map, what its cells mean, and each layer's busiest experts. */
export function formatRoutingMap({ layers, loads, tokens, colour }: RoutingMapOptions): string {
  const largest = Math.max(1, ...loads.flat());
  const width = Math.max(...layers.map(({ layer }) => String(layer).length));
  const lines = layers.flatMap(({ layer }, i) =>
    rowsOf(loads[i]).map((row, part) => {
      const label = part === 0 ? `layer ${String(layer).padStart(width)}` : " ".repeat(width + 6);
      const first = loads[i].length > MOST_CELLS ? `${String(part * MOST_CELLS).padStart(5)}+` : "";
      const cells = row.map((load) => cell(levelOf(load, largest), colour));
      return `${label}${first}  ${cells.join("")}`;
    })
  );
  const scale = Array.from({ length: 10 }, (_, level) => cell(level, colour)).join("");
  const share = (count: number, i: number) =>
    `${Math.round(100 * count / Math.max(1, loads[i].reduce((sum, load) => sum + load, 0)))} %`;
  const busiest = layers.map(({ layer }, i) => {
    const named = ranked(loads[i]).slice(0, BUSIEST)
      .map(({ expert, load }) => `${expert} (${share(load, i)})`);
    const { maxOverMean, dead } = summariseLoad(loads[i]);
    const unused = dead.length === 0 ? "" : `, ${dead.length} never chosen`;
    return `layer ${String(layer).padStart(width)}  ${named.join(", ")}; ` +
      `max/mean ${(maxOverMean ?? 0).toFixed(1)}${unused}`;
  });
  return [
    `${tokens.prompt} prompt tokens and ${tokens.answer} of the answer`,
    "",
    ...lines,
    "",
    `never ${scale} ${largest} times`,
    "",
    "Busiest experts:",
    ...busiest,
  ].join("\n");
}

function rowsOf(load: readonly number[]): number[][] {
  const rows: number[][] = [];
  for (let at = 0; at < load.length; at += MOST_CELLS) rows.push(load.slice(at, at + MOST_CELLS));
  return rows;
}

/** 0 for never, 1 to 9 for shares of the busiest expert's load. */
function levelOf(load: number, largest: number): number {
  return Math.ceil(9 * load / largest);
}

function cell(level: number, colour: boolean): string {
  if (!colour) return level === 0 ? "." : String(level);
  return level === 0 ? "\x1b[2m··\x1b[0m" : `\x1b[48;5;${HEAT[level - 1]}m  \x1b[0m`;
}

/** Experts that were chosen, the busiest first. */
function ranked(load: readonly number[]): { expert: number; load: number }[] {
  return load.map((count, expert) => ({ expert, load: count }))
    .filter(({ load }) => load > 0)
    .sort((a, b) => b.load - a.load || a.expert - b.expert);
}
