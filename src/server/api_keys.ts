/**
 * API keys as a file lists them: names, hashes and limits, a line each. Whoever presents a key is
 * found by its hash; the keys themselves are kept nowhere. Reading the file is the command line's.
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, hexToBytes, utf8ToBytes } from "@noble/hashes/utils.js";
import { OptionError } from "../errors.ts";

/** So many requests in so much time; as many may come at once. */
export interface RateLimit {
  readonly requests: number;
  readonly perMs: number;
}

export interface ApiKey {
  /** Stands in logs, and is the client that the scheduler is fair to. */
  readonly name: string;
  /** SHA-256 of the key, 32 bytes. */
  readonly hash: Uint8Array;
  /** Undefined: as many as come. */
  readonly rate?: RateLimit;
  /** Requests in progress at a time; undefined: as many as come. */
  readonly concurrency?: number;
  /** The best priority that its requests may have; lower goes first. */
  readonly priority: number;
}

const NAME = /^[A-Za-z0-9._-]{1,64}$/;
const HASH = /^sha256:([0-9a-fA-F]{64})$/;
const RATE = /^rate=(\d{1,6})\/(s|min)$/;
const CONCURRENCY = /^concurrency=(\d{1,6})$/;
const PRIORITY = /^priority=(-?\d{1,6})$/;
const UNIT_MS = Object.freeze({ s: 1_000, min: 60_000 });

/** Random bytes of a new key: as many as its hash has. */
const KEY_BYTES = 32;

function show(text: string): string {
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 37)}...` : text);
}

/** SHA-256 of a key as clients send it. */
export function hashKey(key: string): Uint8Array {
  return sha256(utf8ToBytes(key));
}

/** A new random key, 256 bits. */
export function generateKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(KEY_BYTES));
  return `sk-sluice-${bytesToHex(bytes)}`;
}

/** The line of the file for a key. Throws OptionError where the name is none. */
export function keyLine(name: string, key: string): string {
  if (!NAME.test(name)) {
    throw new OptionError(
      `cannot make a key: its name is ${show(name)}, must be 1 to 64 of A-Z a-z 0-9 . _ -`,
    );
  }
  return `${name} sha256:${bytesToHex(hashKey(key))}`;
}

type Limits = { -readonly [K in "rate" | "concurrency" | "priority"]?: ApiKey[K] };

/** Reads one limit into `limits`; false where the word is none, or comes twice. */
function readLimit(word: string, limits: Limits): boolean {
  const rate = RATE.exec(word);
  const concurrency = CONCURRENCY.exec(word);
  const priority = PRIORITY.exec(word);
  if (rate !== null && Number(rate[1]) > 0 && limits.rate === undefined) {
    limits.rate = { requests: Number(rate[1]), perMs: UNIT_MS[rate[2] as "s" | "min"] };
  } else if (concurrency !== null && Number(concurrency[1]) > 0 && !limits.concurrency) {
    limits.concurrency = Number(concurrency[1]);
  } else if (priority !== null && limits.priority === undefined) {
    limits.priority = Number(priority[1]);
  } else return false;
  return true;
}

/**
 * Reads the lines of a key file, `NAME sha256:HEX [rate=N/s|N/min] [concurrency=N] [priority=N]`; what
 * follows a # is a comment. Throws OptionError naming the first wrong line, or that there is no key.
 */
export function parseKeys(text: string, source: string): ApiKey[] {
  const keys: ApiKey[] = [];
  const lineOfName = new Map<string, number>();
  const lineOfHash = new Map<string, number>();
  for (const [i, line] of text.split(/\r?\n/).entries()) {
    const refuse = (what: string, must: string): never => {
      throw new OptionError(
        `cannot read the API keys: line ${i + 1} of ${show(source)} has ${what}, must have ${must}`,
      );
    };
    const [name = "", hash = "", ...words] = line.replace(/#.*$/, "").trim().split(/\s+/);
    if (name === "") continue;
    if (!NAME.test(name)) refuse(`the name ${show(name)}`, "1 to 64 of A-Z a-z 0-9 . _ -");
    const hex = HASH.exec(hash)?.[1].toLowerCase();
    // Not shown: someone may have put the key itself there.
    if (hex === undefined) refuse("no hash behind the name", "sha256: and 64 hexadecimal digits");
    const limits: Limits = {};
    for (const word of words) {
      if (readLimit(word, limits)) continue;
      const must = "each of rate=N/s or rate=N/min, concurrency=N and priority=N once at most";
      refuse(`the word ${show(word)}`, must);
    }
    for (const [seen, value] of [[lineOfName, name], [lineOfHash, hex!]] as const) {
      const before = seen.get(value);
      if (before !== undefined) refuse(`what line ${before} has`, "a name and a key of its own");
      seen.set(value, i + 1);
    }
    keys.push({ name, hash: hexToBytes(hex!), priority: 0, ...limits });
  }
  if (keys.length === 0) {
    throw new OptionError(`cannot read the API keys: ${show(source)} has none, must have one`);
  }
  return keys;
}

/** Compares in a time that does not tell where they differ. */
function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  let difference = a.length ^ b.length;
  for (let i = 0; i < a.length; i++) difference |= a[i] ^ b[i];
  return difference === 0;
}

/** The keys that are valid now. */
export class KeyRing {
  #keys: readonly ApiKey[];

  constructor(keys: readonly ApiKey[]) {
    this.#keys = keys;
  }

  /** Takes other keys from now on; requests in progress go on. */
  replace(keys: readonly ApiKey[]): void {
    this.#keys = keys;
  }

  /** Takes as long whichever key was found, or none. */
  find(presented: string): ApiKey | undefined {
    const hash = hashKey(presented);
    let found: ApiKey | undefined;
    for (const key of this.#keys) if (sameBytes(hash, key.hash)) found = key;
    return found;
  }
}
