/**
 * Whose turn it is: how much each client has been served, and how the rows of a step are shared out
 * among prompts. Counters of served tokens as in Sheng et al. 2024 ("Fairness in serving large language
 * models"): the client that has been served least goes first, and one that comes back after a pause
 * has saved nothing up.
 */

import type { Sequence } from "./sequence.ts";

export interface Client {
  readonly name: string;
  /** Rows computed for it, from where it started. */
  service: number;
  /** Rows that its running sequences are still going to need, as counted for the present admission. */
  load: number;
  /** Its sequences, waiting or running. */
  sequences: number;
  /** Its shortest prompt gets the next slot, not its oldest; they take turns. */
  shortestNext: boolean;
  /** Breaks ties: who came first. */
  readonly order: number;
}

export class Clients {
  readonly #clients = new Map<string, Client>();
  #joined = 0;

  /** Counts one more sequence of a client. */
  join(name: string): Client {
    let client = this.#clients.get(name);
    if (client === undefined || client.sequences === 0) {
      const floor = this.#leastServed();
      const service = Math.max(client?.service ?? 0, floor);
      this.#forget(floor);
      const order = this.#joined++;
      client = { name, service, load: 0, sequences: 0, shortestNext: false, order };
      this.#clients.set(name, client);
    }
    client.sequences++;
    return client;
  }

  leave(client: Client): void {
    client.sequences--;
  }

  /** Infinity where nobody waits or runs would make everybody's past count; it is forgotten then. */
  #leastServed(): number {
    let least = Infinity;
    for (const { sequences, service } of this.#clients.values()) {
      if (sequences > 0) least = Math.min(least, service);
    }
    if (least < Infinity) return least;
    this.#clients.clear();
    return 0;
  }

  /** Those that would start anew in any case. */
  #forget(floor: number): void {
    for (const [name, { sequences, service }] of this.#clients) {
      if (sequences === 0 && service <= floor) this.#clients.delete(name);
    }
  }
}

/** A prompt, or an answer to compute again, that has rows to compute. */
export interface PromptWork {
  readonly sequence: Sequence;
  readonly remaining: number;
  /** Rows that it gets in this step. */
  count: number;
}

/** Rows that a client gets at a time, so that clients with equal service get nearly equal shares. */
const QUANTUM = 16;

/**
 * Sets the counts: all for the best priority first, within it the least served clients, within a client
 * up to half for the shortest prompts and the rest for the oldest, so that neither waits for the other.
 * Prompts that want all their logits share `logitRows` beyond the one that each has. Returns the rows with
 * logits that are left.
 */
export function shareRows(
  works: readonly PromptWork[],
  options: { rows: number; logitRows: number },
): number {
  let { rows, logitRows } = options;
  const give = (work: PromptWork, most: number): number => {
    let count = Math.min(most, rows, work.remaining - work.count);
    if (work.sequence.spec.promptLogits) {
      const own = work.count === 0 ? 1 : 0;
      count = Math.min(count, logitRows + own);
      logitRows -= Math.max(0, count - own);
    }
    work.count += count;
    rows -= count;
    return count;
  };
  const sorted = works.toSorted(({ sequence: a }, { sequence: b }) =>
    a.spec.priority - b.spec.priority || a.arrival - b.arrival
  );
  for (let start = 0, end = 0; start < sorted.length && rows > 0; start = end) {
    const { priority } = sorted[start].sequence.spec;
    while (end < sorted.length && sorted[end].sequence.spec.priority === priority) end++;
    const level = sorted.slice(start, end);
    for (const { share, works } of clientShares(level, rows)) {
      const half = Math.floor(share / 2);
      let left = share;
      for (const work of works.toSorted((a, b) => a.remaining - b.remaining)) {
        left -= give(work, left - (share - half));
      }
      for (const work of works) left -= give(work, left);
    }
    // What a client could not use since rows with logits are short.
    for (const work of level) give(work, rows);
  }
  return logitRows;
}

interface ClientShare {
  readonly client: Client;
  readonly works: PromptWork[];
  demand: number;
  share: number;
}

function clientShares(works: readonly PromptWork[], rows: number): Iterable<ClientShare> {
  const shares = new Map<Client, ClientShare>();
  for (const work of works) {
    const { client } = work.sequence;
    let entry = shares.get(client);
    if (entry === undefined) {
      entry = { client, works: [], demand: 0, share: 0 };
      shares.set(client, entry);
    }
    entry.works.push(work);
    entry.demand += work.remaining;
  }
  for (let left = rows; left > 0;) {
    let least: ClientShare | null = null;
    for (const entry of shares.values()) {
      if (entry.share === entry.demand) continue;
      const { client, share } = entry;
      if (least === null || client.service + share < least.client.service + least.share) {
        least = entry;
      }
    }
    if (least === null) break;
    const given = Math.min(QUANTUM, left, least.demand - least.share);
    least.share += given;
    left -= given;
  }
  return shares.values();
}
