/** A model's plan as text for people. */

import type { CachePlan, ModelPlan, ParameterCounts, StoragePlan } from "../experts/plan_model.ts";
import { formatBytes, printable } from "./terminal.ts";

/** The plan, a block a question. */
export function formatPlan(plan: ModelPlan): string {
  const blocks = [
    describeModel(plan),
    table(partRows(plan.parameters)),
    describeCounting(plan),
    describeCache(plan.cache, plan.context),
    table(storageRows(plan)),
    ...describeMemory(plan.storages),
  ];
  return printable(blocks.join("\n\n"));
}

function describeModel({ outline, parameters }: ModelPlan): string {
  const { name, architecture, layers, hiddenSize, experts, topK, storedAs } = outline;
  const routing = experts === 0 ? "dense" : `${experts} routed experts a layer, ${topK} a token`;
  const stored = storedAs === undefined ? "" : `, published as ${storedAs}`;
  return [
    `${name}: ${architecture}, ${layers} layers of width ${hiddenSize}, ${routing}${stored}`,
    `${billions(parameters.total)} parameters in all (${parameters.total}), ` +
    `${billions(parameters.active)} active (${parameters.active})`,
  ].join("\n");
}

function partRows({ byKind }: ParameterCounts): string[][] {
  return [
    ["part", "parameters", "active"],
    ...byKind.map(({ kind, total, active }) => [kind, billions(total), billions(active)]),
  ];
}

/** Which way of counting gives which number. */
function describeCounting({ outline, parameters }: ModelPlan): string {
  const { mtp } = parameters;
  const lines: string[] = [];
  if (mtp !== null) {
    const both = parameters.total + mtp.own;
    lines.push(
      `Total: the main model. Its module for predicting further tokens (MTP) adds ` +
        `${billions(mtp.own)} (${billions(mtp.active)} active), ${billions(both)} together; ` +
        `published files hold copies of the embedding and the head for it, ` +
        `${billions(both + mtp.copies)} with them.`,
    );
  }
  lines.push(
    outline.tied
      ? "Active: what a token passes through; the embedding counts once, for it is the head too."
      : `Active: what a token passes through, of the embedding the one row that it reads. ` +
        `With the whole table ${billions(parameters.activeWithTable)}.`,
  );
  lines.push(
    `Without embedding and head: ${billions(parameters.totalWithoutEmbeddings)} in all, ` +
      `${billions(parameters.activeWithoutEmbeddings)} active.`,
  );
  return lines.join("\n");
}

function describeCache(cache: CachePlan, context: number): string {
  const { latent, width, plainWidth, bytesPerToken, plainBytesPerToken, bytesAtContext } = cache;
  const kept = latent ? "latent and rope key" : "keys and values";
  const ratio = (plainWidth / width).toFixed(1);
  return `Cache: ${width} numbers a token and layer (${kept}), ${formatBytes(bytesPerToken)} a ` +
    `token in float32, ${formatBytes(bytesAtContext)} at ${context} tokens.\n` +
    `Keys and values of every head would be ${plainWidth} numbers, ` +
    `${formatBytes(plainBytesPerToken)} a token: ${ratio} times as much.`;
}

function storageRows({ storages, context }: ModelPlan): string[][] {
  const header = ["weights as", "bytes", "one expert", `read a token at ${context}`, "banks"];
  const bound = storages.some(({ tokensPerSecond }) => tokensPerSecond !== null);
  return [
    [...header, ...(bound ? ["tokens/s at most"] : [])],
    ...storages.map(({ storage, weightBytes, expertBytes, readPerToken, banks, ...rest }) => [
      storage,
      formatBytes(weightBytes),
      expertBytes === 0 ? "none" : formatBytes(expertBytes),
      formatBytes(readPerToken.weights + readPerToken.cache),
      String(banks),
      ...(rest.tokensPerSecond === null ? [] : [rest.tokensPerSecond.toPrecision(3)]),
    ]),
  ];
}

function describeMemory(storages: readonly StoragePlan[]): string[] {
  const rows = storages.flatMap(({ storage, memory }) => {
    if (memory === null) return [];
    const { fixedBytes, missingBytes, expertsResident, expertsTotal, share, pagedPerToken } =
      memory;
    if (missingBytes > 0) {
      return [[storage, formatBytes(fixedBytes), `${formatBytes(missingBytes)} short`, "", ""]];
    }
    const resident = share === null
      ? "all"
      : `${expertsResident} of ${expertsTotal} experts (${(share * 100).toFixed(1)} %)`;
    return [[storage, formatBytes(fixedBytes), "fits", resident, formatBytes(pagedPerToken)]];
  });
  if (rows.length === 0) return [];
  const header = ["in memory", "always, with cache", "", "besides", "paged a token *"];
  return [
    table([header, ...rows]),
    "* if experts were chosen at random. Real routing has habits, which `deno task replay` measures.",
  ];
}

/** Columns padded to their widest entry, the first to the left, the others to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  return rows.map((row) =>
    row.map((cell, i) => i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))
      .join("  ").trimEnd()
  ).join("\n");
}

/** 671_026_419_200 -> "671.03B". */
function billions(count: number): string {
  const units: readonly (readonly [number, string])[] = [[1e9, "B"], [1e6, "M"], [1e3, "k"]];
  const [size, letter] = units.find(([size]) => count >= size) ?? [1, ""];
  return letter === "" ? String(Math.round(count)) : `${(count / size).toFixed(2)}${letter}`;
}
