/** A store of units in this process, whose failings tests can set. */

import { chainKey } from "../../src/cache/chain.ts";
import type { LoadQuery, StoredUnit, UnitStore } from "../../src/cache/store.ts";
import type { StoreState } from "../../src/cache/types.ts";
import { PAGE_TOKENS } from "../../src/backend/backend.ts";

export class MemoryStore implements UnitStore {
  readonly units = new Map<string, StoredUnit>();
  /** Resolves before a load answers. */
  delay: () => Promise<void> = () => Promise.resolve();
  loads = 0;

  async load({ parent, tokens, unitBytes }: LoadQuery): Promise<StoredUnit[]> {
    this.loads++;
    await this.delay();
    const found: StoredUnit[] = [];
    let key = parent;
    for (let start = 0; start < tokens.length; start += PAGE_TOKENS) {
      const rest = tokens.slice(start, start + PAGE_TOKENS);
      let unit: StoredUnit | undefined;
      for (let count = rest.length; count > 0 && unit === undefined; count--) {
        unit = this.units.get(chainKey(key, rest.slice(0, count)));
      }
      if (unit === undefined || unit.bytes.length !== unitBytes[unit.tokens]) break;
      found.push(unit);
      key = unit.key;
      if (unit.tokens < PAGE_TOKENS) break;
    }
    return found;
  }

  save(unit: StoredUnit): void {
    this.units.set(unit.key, unit);
  }

  state(): StoreState {
    return {
      state: "ready",
      entries: this.units.size,
      bytes: [...this.units.values()].reduce((sum, { bytes }) => sum + bytes.length, 0),
      pagesRead: 0,
      pagesWritten: this.units.size,
      pagesDropped: 0,
      pagesEvicted: 0,
      pagesRefused: 0,
      errors: 0,
    };
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
