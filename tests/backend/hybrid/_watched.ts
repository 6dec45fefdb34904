/** Backends that note what they are asked for, wait or fail where a test says so. */

import type { Backend } from "../../../src/backend/backend.ts";

export interface Watch {
  /** Goes before what is noted: "device submit". */
  readonly name: string;
  /** Gets a line for each submit, read and close. */
  readonly log: string[];
  /** Called before a call is passed on; may throw. */
  readonly onCall?: (what: string) => void;
  /** What reads wait for before they give what they have read. */
  readonly hold?: () => Promise<void>;
}

const NOTED = ["submit", "read", "readIntegers", "replaceExpert", "close"];

/** The same backend under observation. */
export function watched(backend: Backend, { name, log, onCall, hold }: Watch): Backend {
  return new Proxy(backend, {
    get(target, key) {
      const value = Reflect.get(target, key, target);
      if (typeof value !== "function") return value;
      return (...args: unknown[]) => {
        const what = String(key);
        if (NOTED.includes(what)) log.push(`${name} ${what}`);
        onCall?.(what);
        const result = value.apply(target, args);
        const isRead = what === "read" || what === "readIntegers";
        return isRead && hold !== undefined ? hold().then(() => result) : result;
      };
    },
  });
}

/** Waits until everything that needs no timer has been done. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}
