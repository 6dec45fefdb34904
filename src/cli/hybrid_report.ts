/** A plan for the GPU and the CPU together as text for people. */

import type { HybridPlan, Place, Regime } from "../experts/hybrid_plan.ts";
import { describeLoad } from "../engine/hybrid_planning.ts";
import { table } from "./plan_report.ts";
import { formatBytes, printable } from "./terminal.ts";

const PLACES: readonly Place[] = ["hybrid", "wasm", "webgpu"];

/** What lies where, what crosses, how fast that should be, and with which figures that was reckoned. */
export function formatHybridPlan(plan: HybridPlan): string {
  return printable([
    describeExperts(plan),
    table(memoryRows(plan)),
    describeCrossings(plan),
    table(rateRows(plan.regimes)),
    describeVerdict(plan),
    describeRates(plan),
  ].join("\n"));
}

function describeExperts({ experts, layers, recorded }: HybridPlan): string {
  const how = recorded ? "by recorded routing" : "if all are chosen as often";
  return `${experts.resident} of ${experts.all} routed experts on the GPU, ` +
    `${percent(experts.chosen)} of choices ${how}; ` +
    `${layers.whole} of ${layers.routed} layers whole`;
}

function memoryRows({ device, host }: HybridPlan): string[][] {
  const { budget, always, experts, cache, workspace } = device;
  const free = budget - always - experts - cache - workspace;
  return [
    ["", "GPU", "CPU"],
    ["what every token needs", formatBytes(always), "-"],
    ["routed experts", formatBytes(experts), formatBytes(host)],
    ["cache", formatBytes(cache), "-"],
    ["workspace", formatBytes(workspace), ""],
    ["left of --gpu-memory", formatBytes(free), ""],
  ];
}

function describeCrossings({ crossings, movedPerToken, rates }: HybridPlan): string {
  if (crossings === 0) return "a step never crosses to the CPU";
  const wait = digits(rates.crossingSeconds * 1e3);
  return `a step crosses ${crossings} times, half of them with a wait of ${wait} ms or more; ` +
    `${formatBytes(movedPerToken)} cross a token`;
}

function rateRows(regimes: readonly Regime[]): string[][] {
  return [
    ["tokens/s expected", ...PLACES],
    ...regimes.map((regime) => [
      describeRegime(regime),
      ...PLACES.map((place) => {
        const rate = regime.tokensPerSecond[place];
        return rate === null ? "too large" : digits(rate);
      }),
    ]),
  ];
}

function describeVerdict({ verdict, regimes }: HybridPlan): string {
  const { best, seconds } = verdict;
  const told = PLACES.flatMap((place) => {
    const own = seconds[place];
    return own === null ? [] : [`${place} ${digits(own)} s`];
  });
  const slower = regimes
    .filter(({ tokensPerSecond: { hybrid, wasm } }) => hybrid! < wasm!)
    .map(describeRegime);
  return `${describeLoad(verdict)}: ` +
    `${told.join(", ")}; ${best} is the fastest` +
    (best === "hybrid" && slower.length > 0 ? `, but not in: ${slower.join("; ")}` : "");
}

function describeRegime({ name, rows }: Regime): string {
  return name === "decode" ? `${rows} side by side` : `prompt, ${rows} a step`;
}

function describeRates({ rates: { device, host } }: HybridPlan): string {
  const threads = host.threads === 1 ? "1 thread" : `${host.threads} threads`;
  return `reckoned with a GPU of ${digits(device.bytesPerSecond / 1e9)} GB/s, ` +
    `${digits(device.operationsPerSecond / 1e12)} TFLOP/s, ` +
    `${digits(device.layerSeconds * 1e6)} us a layer at least; ` +
    `${threads} of ${digits(host.bytesPerSecond / 1e9)} GB/s, ` +
    `${digits(host.operationsPerSecond / 1e9)} GFLOP/s, ` +
    `${digits(host.roundSeconds * 1e6)} us a layer to begin`;
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}

/** Three significant digits, without an exponent. */
function digits(value: number): string {
  return value >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));
}
