/**
 * Messages of numbers between those who train together. They may be tasks of one thread, threads of one
 * process or, with another implementation, processes elsewhere: nobody sees another's memory.
 */

export interface Communicator {
  /** 0 to size - 1. */
  readonly rank: number;
  readonly size: number;
  /** Sends numbers under a name; the array is the receiver's from then on. */
  send(to: number, tag: string, values: Float32Array<ArrayBuffer>): void;
  /** The numbers that a rank has sent or will send under this name, in the order of sending. */
  receive(from: number, tag: string): Promise<Float32Array<ArrayBuffer>>;
}

interface Message {
  readonly tag: string;
  readonly values: Float32Array<ArrayBuffer>;
}

/** A port to each other rank; null at the own place. */
export type Ports = readonly (MessagePort | null)[];

/** Ports for all ranks, each to each. */
export function connect(size: number): Ports[] {
  const ports = Array.from({ length: size }, () => new Array<MessagePort | null>(size).fill(null));
  for (let a = 0; a < size; a++) {
    for (let b = a + 1; b < size; b++) {
      const { port1, port2 } = new MessageChannel();
      ports[a][b] = port1;
      ports[b][a] = port2;
    }
  }
  return ports;
}

/** Messages over ports. */
export class PortCommunicator implements Communicator {
  readonly rank: number;
  readonly size: number;
  readonly #ports: Ports;
  /** By sender and name: messages that nobody has asked for, and those that are asked for. */
  readonly #arrived = new Map<string, Float32Array<ArrayBuffer>[]>();
  readonly #wanted = new Map<string, ((values: Float32Array<ArrayBuffer>) => void)[]>();

  constructor({ rank, ports }: { rank: number; ports: Ports }) {
    this.rank = rank;
    this.size = ports.length;
    this.#ports = ports;
    for (const [from, port] of ports.entries()) {
      if (port === null) continue;
      port.onmessage = ({ data }: MessageEvent<Message>) => this.#take(`${from} ${data.tag}`, data);
    }
  }

  send(to: number, tag: string, values: Float32Array<ArrayBuffer>): void {
    const message: Message = { tag, values };
    this.#ports[to]!.postMessage(message, [values.buffer]);
  }

  receive(from: number, tag: string): Promise<Float32Array<ArrayBuffer>> {
    const key = `${from} ${tag}`;
    const waiting = this.#arrived.get(key)?.shift();
    if (waiting !== undefined) return Promise.resolve(waiting);
    return new Promise((resolve) => {
      const list = this.#wanted.get(key);
      if (list === undefined) this.#wanted.set(key, [resolve]);
      else list.push(resolve);
    });
  }

  close(): void {
    for (const port of this.#ports) port?.close();
  }

  #take(key: string, { values }: Message): void {
    const resolve = this.#wanted.get(key)?.shift();
    if (resolve !== undefined) return resolve(values);
    const list = this.#arrived.get(key);
    if (list === undefined) this.#arrived.set(key, [values]);
    else list.push(values);
  }
}

/** Some of the ranks, numbered anew in this order; the own one must be among them. */
export class Subgroup implements Communicator {
  readonly rank: number;
  readonly size: number;
  readonly #all: Communicator;
  readonly #ranks: readonly number[];

  constructor(all: Communicator, ranks: readonly number[]) {
    this.#all = all;
    this.#ranks = ranks;
    this.rank = ranks.indexOf(all.rank);
    this.size = ranks.length;
  }

  send(to: number, tag: string, values: Float32Array<ArrayBuffer>): void {
    this.#all.send(this.#ranks[to], tag, values);
  }

  receive(from: number, tag: string): Promise<Float32Array<ArrayBuffer>> {
    return this.#all.receive(this.#ranks[from], tag);
  }
}

/**
 * The sums of all ranks' numbers, in place. Each part of the numbers is added up by one rank, in the order
 * of the ranks, so all get the same bits, every time.
 */
export async function allReduce(
  group: Communicator,
  tag: string,
  values: Float32Array,
): Promise<void> {
  const { rank, size } = group;
  if (size === 1) return;
  const bound = (part: number) => Math.floor(part * values.length / size);
  for (let to = 0; to < size; to++) {
    if (to !== rank) group.send(to, `${tag} part`, values.slice(bound(to), bound(to + 1)));
  }
  const own = values.subarray(bound(rank), bound(rank + 1));
  const sums = rank === 0 ? own.slice() : await group.receive(0, `${tag} part`);
  for (let from = 1; from < size; from++) {
    const part = from === rank ? own : await group.receive(from, `${tag} part`);
    for (let i = 0; i < sums.length; i++) sums[i] += part[i];
  }
  own.set(sums);
  for (let to = 0; to < size; to++) {
    if (to !== rank) group.send(to, `${tag} sum`, sums.slice());
  }
  for (let from = 0; from < size; from++) {
    if (from !== rank) values.set(await group.receive(from, `${tag} sum`), bound(from));
  }
}
