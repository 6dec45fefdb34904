/**
 * How a unit is written down: its bytes, in one place or another, and a manifest that says what they
 * are. A manifest is 32 bytes of SHA-256 and then the JSON text that they are of; the text holds the
 * SHA-256 of the unit's bytes. So one checksum stands for key, model, lengths, tokens and bytes.
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";

/** Bytes of a chunk: KV takes values below 65,536 bytes. */
export const CHUNK_BYTES = 65_000;

/** Which medium holds a unit's bytes. */
export type PlaceName = "kv" | "files";

export interface Manifest {
  readonly key: string;
  readonly parent: string;
  /** The name of the model where it was written, for lists: `key` stands for the model itself. */
  readonly model: string;
  /** Names the bytes; random, so that writers of the same unit never mix theirs. */
  readonly writeId: string;
  readonly place: PlaceName;
  readonly tokens: number;
  readonly bytes: number;
  readonly chunkBytes: number;
  /** SHA-256 of the bytes, hex. */
  readonly digest: string;
  /** Times are milliseconds since 1970. */
  readonly created: number;
  readonly used: number;
  /** Nobody may use it from then on; moves with `used`. */
  readonly expires: number;
  /** The database drops bytes and manifest then. */
  readonly dropped: number;
}

const CHECKSUM_BYTES = 32;
const HEX_KEY = /^[0-9a-f]{64}$/;
const WRITE_ID = /^[0-9a-f]{32}$/;
const ENCODER = new TextEncoder();
const DECODER = new TextDecoder("utf-8", { fatal: true });

export function encodeManifest(manifest: Manifest): Uint8Array<ArrayBuffer> {
  return seal(manifest);
}

/** The manifest that `value` holds for `key`; null where it is damaged or belongs to another key. */
export function decodeManifest(value: unknown, key: string): Manifest | null {
  const manifest = unseal(value) as Partial<Manifest> | null;
  const isRight = manifest !== null && typeof manifest === "object" && manifest.key === key &&
    isText(manifest.parent, HEX_KEY) && isText(manifest.digest, HEX_KEY) &&
    isText(manifest.writeId, WRITE_ID) && typeof manifest.model === "string" &&
    (manifest.place === "kv" || manifest.place === "files") &&
    isCount(manifest.tokens) && isCount(manifest.bytes) && manifest.bytes > 0 &&
    isCount(manifest.chunkBytes) && manifest.chunkBytes > 0 &&
    [manifest.created, manifest.used, manifest.expires, manifest.dropped].every(isCount);
  return isRight ? manifest as Manifest : null;
}

/** Says of bytes that no manifest names whose they are and since when. */
export interface LooseMark {
  readonly place: PlaceName;
  readonly chunks: number;
  readonly since: number;
}

export function encodeMark(mark: LooseMark): Uint8Array<ArrayBuffer> {
  return seal(mark);
}

export function decodeMark(value: unknown): LooseMark | null {
  const mark = unseal(value) as Partial<LooseMark> | null;
  const isRight = mark !== null && typeof mark === "object" &&
    (mark.place === "kv" || mark.place === "files") && isCount(mark.chunks) && isCount(mark.since);
  return isRight ? mark as LooseMark : null;
}

export function chunkCount({ bytes, chunkBytes }: Pick<Manifest, "bytes" | "chunkBytes">): number {
  return Math.ceil(bytes / chunkBytes);
}

/** SHA-256, hex, computed outside this thread. */
export async function digestOf(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return bytesToHex(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)));
}

/** 128 random bits, hex. */
export function randomWriteId(): string {
  return bytesToHex(crypto.getRandomValues(new Uint8Array(16)));
}

function seal(content: object): Uint8Array<ArrayBuffer> {
  const text = ENCODER.encode(JSON.stringify(content));
  const value = new Uint8Array(CHECKSUM_BYTES + text.length);
  value.set(sha256(text));
  value.set(text, CHECKSUM_BYTES);
  return value;
}

function unseal(value: unknown): unknown {
  if (!(value instanceof Uint8Array) || value.length <= CHECKSUM_BYTES) return null;
  const text = value.subarray(CHECKSUM_BYTES);
  if (sha256(text).some((byte, i) => byte !== value[i])) return null;
  try {
    return JSON.parse(DECODER.decode(text));
  } catch {
    return null;
  }
}

function isText(value: unknown, pattern: RegExp): boolean {
  return typeof value === "string" && pattern.test(value);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
