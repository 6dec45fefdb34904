/**
 * What the thread that runs plans and the readers share: for each slot of resident experts what is to
 * be read into it, and how far that is. All of it is one SharedArrayBuffer of 32-bit words, so that a
 * request costs neither a message nor an allocation.
 */

import { CapacityError } from "../../../errors.ts";
import type { TensorLocation } from "../../backend.ts";

/** How far a slot's reading is. */
export const STATE = { idle: 0, wanted: 1, taken: 2, done: 3, failed: 4 } as const;

/** A file as another thread is to open it. */
export type LoadFile = Pick<TensorLocation, "file" | "version">;

/** One matrix of an expert: where its bytes are, what they are, and where they go. */
export interface MatrixLoad {
  readonly file: number;
  readonly offset: number;
  readonly byteLength: number;
  /** The type's number in the kernels. */
  readonly kind: number;
  readonly rows: number;
  readonly cols: number;
  /** Where it goes, in the memory of the load's bank. */
  readonly address: number;
}

export interface ExpertLoad {
  readonly bank: number;
  readonly matrices: readonly MatrixLoad[];
}

/** Which queue a load waits in: what a step waits for comes before what may be of use. */
export type Urgency = "now" | "ahead";

const MATRICES = 3;
const MATRIX_WORDS = 8;
/** State, bank, then the matrices. */
const SLOT_WORDS = 2 + MATRICES * MATRIX_WORDS;
/** Entries of each queue; a power of two, so that its counts may wrap at 2^32. */
const QUEUE = 4096;
/** For the files' names: a checkpoint may have hundreds, with URLs. */
const NAME_BYTES = 1 << 20;
const FAILURE_TEXT_BYTES = 1 << 12;

// Words at the beginning.
const SIGNAL = 0;
const STOPPED = 1;
const FILES = 2;
const NAMES_END = 3;
const FAILURE_BYTES = 4;
const HEADS = { now: 5, ahead: 6 } as const;
const TEXT_LOCK = 7;
const HEADER_WORDS = 16;

export class LoadTable {
  readonly memory: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #names: Uint8Array;
  readonly #failure: Uint8Array;
  readonly #slotsAt: number;

  /** Over a table that another thread has made, or a new one for `slots` slots. */
  constructor(of: { slots: number } | { memory: SharedArrayBuffer }) {
    const before = HEADER_WORDS + 2 * QUEUE + (NAME_BYTES + FAILURE_TEXT_BYTES) / 4;
    this.memory = "memory" in of
      ? of.memory
      : new SharedArrayBuffer((before + of.slots * SLOT_WORDS) * 4);
    this.#words = new Int32Array(this.memory);
    const namesAt = (HEADER_WORDS + 2 * QUEUE) * 4;
    this.#names = new Uint8Array(this.memory, namesAt, NAME_BYTES);
    this.#failure = new Uint8Array(this.memory, namesAt + NAME_BYTES, FAILURE_TEXT_BYTES);
    this.#slotsAt = before;
  }

  /**
   * Makes a file known; readers ask for it by the number that is returned. Throws CapacityError where
   * the names are too long together.
   */
  addFile(file: LoadFile): number {
    const bytes = new TextEncoder().encode(JSON.stringify(file));
    const end = this.#words[NAMES_END];
    if (end + 4 + bytes.length > NAME_BYTES) {
      throw new CapacityError(
        `cannot page experts: the names of their files are more than ${
          end + bytes.length
        } bytes, ` +
          `must be at most ${NAME_BYTES} together`,
      );
    }
    this.#names.set(bytes, end + 4);
    new DataView(this.#names.buffer, this.#names.byteOffset).setUint32(end, bytes.length);
    this.#words[NAMES_END] = end + 4 + bytes.length;
    return Atomics.add(this.#words, FILES, 1);
  }

  file(number: number): LoadFile {
    const view = new DataView(this.#names.buffer, this.#names.byteOffset);
    let at = 0;
    for (let i = 0; i < number; i++) at += 4 + view.getUint32(at);
    const length = view.getUint32(at);
    return JSON.parse(new TextDecoder().decode(this.#names.slice(at + 4, at + 4 + length)));
  }

  state(slot: number): number {
    return Atomics.load(this.#words, this.#slot(slot));
  }

  setState(slot: number, state: number): void {
    Atomics.store(this.#words, this.#slot(slot), state);
    Atomics.notify(this.#words, this.#slot(slot));
  }

  /** Takes over a slot that is wanted: to read it, or, as idle, to give it up. */
  claim(slot: number, as: number = STATE.taken): boolean {
    const at = this.#slot(slot);
    return Atomics.compareExchange(this.#words, at, STATE.wanted, as) === STATE.wanted;
  }

  /** Waits until nobody reads into the slot; returns its state. */
  settled(slot: number): number {
    const at = this.#slot(slot);
    let state = Atomics.load(this.#words, at);
    while (state === STATE.wanted || state === STATE.taken) {
      Atomics.wait(this.#words, at, state);
      state = Atomics.load(this.#words, at);
    }
    return state;
  }

  /** Asks for a load into an idle slot; "here" for one that the caller is about to claim itself. */
  publish(slot: number, load: ExpertLoad, urgency: Urgency | "here"): void {
    const at = this.#slot(slot);
    this.#words[at + 1] = load.bank;
    for (const [i, matrix] of load.matrices.entries()) {
      const low = matrix.offset % 2 ** 32;
      this.#words.set([
        matrix.file,
        low,
        (matrix.offset - low) / 2 ** 32,
        ...[matrix.byteLength, matrix.kind, matrix.rows, matrix.cols, matrix.address],
      ], at + 2 + i * MATRIX_WORDS);
    }
    Atomics.store(this.#words, at, STATE.wanted);
    if (urgency !== "here") this.#enqueue(slot, urgency);
  }

  /** Somebody waits now for what was only asked for ahead. */
  hurry(slot: number): void {
    if (this.state(slot) === STATE.wanted) this.#enqueue(slot, "now");
  }

  load(slot: number): ExpertLoad {
    const at = this.#slot(slot);
    const matrices = Array.from({ length: MATRICES }, (_, i) => {
      const words = this.#words.subarray(at + 2 + i * MATRIX_WORDS);
      return {
        file: words[0],
        offset: (words[1] >>> 0) + words[2] * 2 ** 32,
        byteLength: words[3] >>> 0,
        kind: words[4],
        rows: words[5],
        cols: words[6],
        address: words[7] >>> 0,
      };
    });
    return { bank: this.#words[at + 1], matrices };
  }

  /** Slots asked for since `seen`, a reader's own count of each queue. */
  next(seen: Record<Urgency, number>, urgency: Urgency): number | undefined {
    const head = Atomics.load(this.#words, HEADS[urgency]);
    const waiting = (head - seen[urgency]) >>> 0;
    if (waiting === 0) return undefined;
    // What has been overwritten is no longer waited for, or has been asked for again since.
    if (waiting > QUEUE) seen[urgency] = head - QUEUE;
    const entry = seen[urgency] & (QUEUE - 1);
    seen[urgency] = (seen[urgency] + 1) | 0;
    return Atomics.load(this.#words, this.#queue(urgency) + entry);
  }

  /** Says why a load has failed; one that nobody has asked about is overwritten. */
  fail(slot: number, message: string): void {
    const bytes = new TextEncoder().encode(message).subarray(0, FAILURE_TEXT_BYTES);
    this.#lockText();
    this.#failure.set(bytes);
    this.#words[FAILURE_BYTES] = bytes.length;
    this.#unlockText();
    this.setState(slot, STATE.failed);
  }

  get failure(): string {
    this.#lockText();
    const bytes = this.#failure.slice(0, this.#words[FAILURE_BYTES]);
    this.#unlockText();
    return new TextDecoder().decode(bytes);
  }

  /** A number that changes with each request; readers wait for that. */
  get signal(): number {
    return Atomics.load(this.#words, SIGNAL);
  }

  waitForSignal(seen: number): void {
    Atomics.wait(this.#words, SIGNAL, seen);
  }

  async signalled(seen: number): Promise<void> {
    const { async, value } = Atomics.waitAsync(this.#words, SIGNAL, seen);
    if (async) await value;
  }

  stop(): void {
    Atomics.store(this.#words, STOPPED, 1);
    Atomics.add(this.#words, SIGNAL, 1);
    Atomics.notify(this.#words, SIGNAL);
  }

  get stopped(): boolean {
    return Atomics.load(this.#words, STOPPED) === 1;
  }

  #enqueue(slot: number, urgency: Urgency): void {
    const head = Atomics.load(this.#words, HEADS[urgency]);
    Atomics.store(this.#words, this.#queue(urgency) + (head & (QUEUE - 1)), slot);
    Atomics.store(this.#words, HEADS[urgency], (head + 1) | 0);
    Atomics.add(this.#words, SIGNAL, 1);
    Atomics.notify(this.#words, SIGNAL);
  }

  /** Two readers may fail at once; each holds the text for as long as copying it takes. */
  #lockText(): void {
    while (Atomics.compareExchange(this.#words, TEXT_LOCK, 0, 1) !== 0);
  }

  #unlockText(): void {
    Atomics.store(this.#words, TEXT_LOCK, 0);
  }

  #slot(slot: number): number {
    return this.#slotsAt + slot * SLOT_WORDS;
  }

  #queue(urgency: Urgency): number {
    return HEADER_WORDS + (urgency === "now" ? 0 : QUEUE);
  }
}
