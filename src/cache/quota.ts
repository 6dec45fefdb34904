/** Which units go when all together take more than they may: plain data in and out. */

export interface KeptUnit {
  readonly key: string;
  readonly parent: string;
  readonly bytes: number;
  readonly used: number;
}

/** What is evicted goes this far below the quota, so that not every write evicts. */
const TARGET_SHARE = 0.9;

/**
 * The units to evict so that `more` bytes fit below `quotaBytes`; none where they fit already. The least
 * recently used ones go first. A unit counts as used when one behind it was, since it can't be reached
 * without; so of a chain the end goes first.
 */
export function chooseEvictions<Unit extends KeptUnit>(
  units: readonly Unit[],
  { quotaBytes, more }: { quotaBytes: number; more: number },
): Unit[] {
  let bytes = units.reduce((sum, unit) => sum + unit.bytes, 0);
  if (bytes + more <= quotaBytes) return [];
  const target = quotaBytes * TARGET_SHARE - more;
  const ranks = rank(units);
  const byRank = [...units].sort((a, b) => compareRanks(ranks.get(a.key)!, ranks.get(b.key)!));
  const evicted: Unit[] = [];
  for (const unit of byRank) {
    if (bytes <= target) break;
    evicted.push(unit);
    bytes -= unit.bytes;
  }
  return evicted;
}

interface Rank {
  /** When it, or a unit behind it, was used last. */
  used: number;
  /** Units between it and that unit. */
  distance: number;
  readonly key: string;
}

function rank(units: readonly KeptUnit[]): Map<string, Rank> {
  const ranks = new Map<string, Rank>();
  const parents = new Map<string, string>();
  for (const { key, parent, used } of units) {
    ranks.set(key, { used, distance: 0, key });
    parents.set(key, parent);
  }
  for (const { key, used } of units) {
    let distance = 0;
    for (let at = parents.get(key); at !== undefined; at = parents.get(at)) {
      const above = ranks.get(at);
      distance++;
      if (above === undefined) break;
      const raises = used > above.used || (used === above.used && distance > above.distance);
      if (!raises) break;
      above.used = used;
      above.distance = distance;
    }
  }
  return ranks;
}

function compareRanks(a: Rank, b: Rank): number {
  return a.used - b.used || a.distance - b.distance || (a.key < b.key ? -1 : 1);
}
