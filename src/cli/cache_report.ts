/** What `deno task cache` prints: units by model and by the root of their chain, which is a tenant's. */

import type { Manifest } from "../cache/codec.ts";
import { formatBytes } from "./terminal.ts";

export interface ListedUnit {
  readonly key: string;
  /** Tokens before it, and in it. */
  readonly start: number;
  readonly tokens: number;
  readonly bytes: number;
  readonly place: Manifest["place"];
  /** Milliseconds since 1970. */
  readonly created: number;
  readonly used: number;
}

export interface ListedTenant {
  /** The key that its first units have as parent. */
  readonly root: string;
  readonly tokens: number;
  readonly bytes: number;
  /** In the order of their chains. */
  readonly units: readonly ListedUnit[];
}

export interface ListedModel {
  readonly model: string;
  readonly bytes: number;
  readonly tenants: readonly ListedTenant[];
}

/**
 * Groups units. Units whose beginning is no longer there count as a tenant of their own: nothing tells
 * the key of a unit that has gone from the root of a chain.
 */
export function modelsOf(manifests: readonly Manifest[]): ListedModel[] {
  const models = Map.groupBy(manifests, ({ model }) => model);
  return [...models].sort(([a], [b]) => a < b ? -1 : 1).map(([model, all]) => {
    const keys = new Set(all.map(({ key }) => key));
    const children = Map.groupBy(all, ({ parent }) => parent);
    const roots = [...children.keys()].filter((parent) => !keys.has(parent)).sort();
    const tenants = roots.map((root) => {
      const units = chainsBehind(root, children);
      return { root, tokens: sum(units, "tokens"), bytes: sum(units, "bytes"), units };
    });
    return { model, bytes: sum(tenants, "bytes"), tenants };
  });
}

function chainsBehind(
  root: string,
  children: ReadonlyMap<string, readonly Manifest[]>,
): ListedUnit[] {
  const units: ListedUnit[] = [];
  const open: { parent: string; start: number }[] = [{ parent: root, start: 0 }];
  for (let at = open.pop(); at !== undefined; at = open.pop()) {
    for (const { key, tokens, bytes, place, created, used } of children.get(at.parent) ?? []) {
      units.push({ key, start: at.start, tokens, bytes, place, created, used });
      open.push({ parent: key, start: at.start + tokens });
    }
  }
  return units.sort((a, b) => a.start - b.start || b.used - a.used);
}

/** A table for each tenant. */
export function formatUnits(models: readonly ListedModel[], { now }: { now: number }): string {
  if (models.length === 0) return "no units";
  const blocks = models.map(({ model, bytes, tenants }) =>
    [
      `${model}: ${formatBytes(bytes)}`,
      ...tenants.map(({ root, units, bytes }) =>
        [
          `  tenant ${root.slice(0, 12)}: ${units.length} units, ${formatBytes(bytes)}`,
          row("key", "tokens", "bytes", "age", "last use"),
          ...units.map(({ key, start, tokens, bytes, created, used }) =>
            row(
              key.slice(0, 12),
              `${start}-${start + tokens}`,
              formatBytes(bytes),
              formatSpan(now - created),
              formatSpan(now - used),
            )
          ),
        ].join("\n")
      ),
    ].join("\n")
  );
  return blocks.join("\n\n");
}

function row(...[key, ...columns]: string[]): string {
  return `    ${key.padEnd(12)}${columns.map((text) => text.padStart(13)).join("")}`;
}

export interface Stat {
  readonly models: readonly {
    readonly model: string;
    readonly tenants: number;
    readonly units: number;
    readonly tokens: number;
    readonly bytes: number;
  }[];
  readonly units: number;
  readonly bytes: number;
  readonly damaged: number;
  readonly expired: number;
  readonly lastUse: number | null;
}

export function formatStat(stat: Stat, { now }: { now: number }): string {
  const { models, units, bytes, damaged, expired, lastUse } = stat;
  return [
    `${units} units, ${formatBytes(bytes)}`,
    ...models.map(({ model, tenants, units, tokens, bytes }) =>
      `  ${model}: ${tenants} tenants, ${units} units, ${tokens} tokens, ${formatBytes(bytes)}`
    ),
    ...(lastUse === null ? [] : [`last use ${formatSpan(now - lastUse)} ago`]),
    ...(expired > 0 ? [`${expired} expired, removed when a server looks next`] : []),
    ...(damaged > 0 ? [`${damaged} damaged, see verify`] : []),
  ].join("\n");
}

/** 90_000 -> "1 min". */
function formatSpan(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 2 * 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

function sum<Name extends string>(
  items: readonly { readonly [name in Name]: number }[],
  name: Name,
): number {
  return items.reduce((total, item) => total + item[name], 0);
}
