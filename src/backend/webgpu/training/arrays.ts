/** What kernels of training read and write, where one buffer may go by several names. */

import type { Buffer } from "../../backend.ts";
import type { OpContext } from "../ops/context.ts";
import {
  type Binding,
  BUILTINS,
  type Dispatch,
  type Parameter as KernelParameter,
  WORKGROUP,
} from "../kernel.ts";
import { bufferOf } from "../memory.ts";

/** An array that a kernel sees. */
export interface Access {
  readonly memory: GPUBuffer;
  readonly type: "f32" | "i32" | "u32" | "vec2<u32>" | "vec4<f32>";
  readonly write: boolean;
}

/** Arrays by what an op calls them. */
export type Accesses<Name extends string> = Readonly<Record<Name, Access>>;

export function reads(of: Buffer | GPUBuffer, type?: Access["type"]): Access {
  return accessOf(of, { type, write: false });
}

export function writes(of: Buffer | GPUBuffer, type?: Access["type"]): Access {
  return accessOf(of, { type, write: true });
}

function accessOf(
  of: Buffer | GPUBuffer,
  { type, write }: { type?: Access["type"]; write: boolean },
): Access {
  if (!("kind" in of)) return { memory: of, type: type ?? "f32", write };
  return { memory: bufferOf(of).memory, type: type ?? of.kind, write };
}

/**
 * Bindings, and each array's name in WGSL. A buffer that is meant twice is bound once, with its first type,
 * since a kernel may not see memory that it writes under two names.
 */
export function bind<Name extends string>(
  accesses: Accesses<Name>,
): { bindings: Binding[]; names: Readonly<Record<Name, string>> } {
  const bound = new Map<GPUBuffer, Binding>();
  const names = {} as Record<Name, string>;
  for (const [key, { memory, type, write }] of Object.entries<Access>(accesses)) {
    const before = bound.get(memory);
    const name = before?.name ?? `a_${key}`;
    names[key as Name] = name;
    bound.set(memory, {
      ...{ name, buffer: memory, type: before?.type ?? `array<${type}>` },
      write: write || before?.write === true,
    });
  }
  return { bindings: [...bound.values()], names };
}

/** A kernel by its body; `workgroup` and `lane` are there. */
export interface Kernel<Name extends string> {
  readonly label: string;
  readonly arrays: Accesses<Name>;
  readonly params: Readonly<Record<string, KernelParameter>>;
  readonly workgroups: number;
  readonly threads: number;
  /** Declarations outside `main`. */
  readonly declare?: (names: Readonly<Record<Name, string>>) => string;
  readonly body: (names: Readonly<Record<Name, string>>) => string;
}

export function kernel<Name extends string>(options: Kernel<Name>): Dispatch {
  const { label, params, workgroups, threads, declare, body } = options;
  const { bindings, names } = bind(options.arrays);
  return {
    ...{ label, bindings, params, workgroups },
    code: `${declare?.(names) ?? ""}
@compute @workgroup_size(${threads}) fn main(${BUILTINS}) {
  ${WORKGROUP}
${body(names)}
}`,
  };
}

const EACH_THREADS = 256;

/** Runs WGSL for each `i` below `count`. */
export function each<Name extends string>(
  context: OpContext,
  options: {
    label: string;
    arrays: Accesses<Name>;
    params?: Kernel<Name>["params"];
    count: number;
    declare?: string;
    body: Kernel<Name>["body"];
  },
): void {
  const { label, arrays, params = {}, count, declare = "", body } = options;
  context.run(kernel({
    ...{ label, arrays },
    params: { count, ...params },
    workgroups: Math.ceil(count / EACH_THREADS),
    threads: EACH_THREADS,
    declare: () => declare,
    body: (names) => `
  let i = workgroup * ${EACH_THREADS}u + lane;
  if (i >= params.count) { return; }
  ${body(names)}`,
  }));
}

/** WGSL of room for `total`, for so many threads. */
export function totalMemory(threads: number): string {
  return `var<workgroup> partial: array<f32, ${threads}>;`;
}

/** WGSL that leaves `name` with every thread: all threads' values, added in an order of their own. */
export function total(
  name: string,
  { threads, value, combine = (a, b) => `${a} + ${b}` }: {
    threads: number;
    value: string;
    combine?: (a: string, b: string) => string;
  },
): string {
  return `
  partial[lane] = ${value};
  workgroupBarrier();
  for (var half = ${threads / 2}u; half > 0u; half /= 2u) {
    if (lane < half) { partial[lane] = ${combine("partial[lane]", "partial[lane + half]")}; }
    workgroupBarrier();
  }
  let ${name} = partial[0];
  workgroupBarrier();`;
}
