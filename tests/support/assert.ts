/**
 * The assertions that tests import as `@std/assert`, over node:assert/strict. Names, argument order
 * and meaning are those of JSR's `@std/assert`, so that deno.json's one import line can name either.
 */

import nodeAssert from "node:assert/strict";

export const AssertionError: typeof nodeAssert.AssertionError = nodeAssert.AssertionError;

/** A class whose instances can be checked with `instanceof`, abstract ones included. */
// deno-lint-ignore no-explicit-any
type AnyClass<T> = abstract new (...args: any[]) => T;

/** Fails unless `condition` is truthy. */
export function assert(condition: unknown, message?: string): asserts condition {
  if (!condition) fail(message ?? "assertion failed");
}

/** Fails where `condition` is truthy. */
export function assertFalse(condition: unknown, message?: string): asserts condition is false {
  if (condition) fail(message ?? "expected a falsy value");
}

/** Deep equality: same structure, same prototypes, NaN equal to NaN. */
export function assertEquals<T>(actual: T, expected: T, message?: string): void {
  nodeAssert.deepStrictEqual(actual, expected, message);
}

export function assertNotEquals<T>(actual: T, expected: T, message?: string): void {
  nodeAssert.notDeepStrictEqual(actual, expected, message);
}

/** `Object.is` equality. */
export function assertStrictEquals<T>(
  actual: unknown,
  expected: T,
  message?: string,
): asserts actual is T {
  nodeAssert.strictEqual(actual, expected, message);
}

export function assertNotStrictEquals<T>(actual: T, expected: T, message?: string): void {
  nodeAssert.notStrictEqual(actual, expected, message);
}

export function assertExists<T>(actual: T, message?: string): asserts actual is NonNullable<T> {
  if (actual === null || actual === undefined) fail(message ?? `expected a value, got ${actual}`);
}

export function assertInstanceOf<T>(
  actual: unknown,
  expectedType: AnyClass<T>,
  message?: string,
): asserts actual is T {
  if (!(actual instanceof expectedType)) {
    fail(message ?? `expected an instance of ${expectedType.name}, got ${describe(actual)}`);
  }
}

/** Fails where the two differ by more than `tolerance` (default: 1e-7 of the expected value). */
export function assertAlmostEquals(
  actual: number,
  expected: number,
  tolerance: number = Number.isFinite(expected) ? Math.abs(expected * 1e-7) : 1e-7,
  message?: string,
): void {
  if (Object.is(actual, expected)) return;
  const difference = Math.abs(actual - expected);
  if (!(difference <= tolerance)) {
    fail(message ?? `expected ${actual} within ${tolerance} of ${expected}, off by ${difference}`);
  }
}

export function assertGreater<T>(actual: T, bound: T, message?: string): void {
  if (!(actual > bound)) fail(message ?? `expected ${actual} > ${bound}`);
}

export function assertGreaterOrEqual<T>(actual: T, bound: T, message?: string): void {
  if (!(actual >= bound)) fail(message ?? `expected ${actual} >= ${bound}`);
}

export function assertLess<T>(actual: T, bound: T, message?: string): void {
  if (!(actual < bound)) fail(message ?? `expected ${actual} < ${bound}`);
}

export function assertLessOrEqual<T>(actual: T, bound: T, message?: string): void {
  if (!(actual <= bound)) fail(message ?? `expected ${actual} <= ${bound}`);
}

export function assertStringIncludes(actual: string, expected: string, message?: string): void {
  if (!actual.includes(expected)) {
    fail(message ?? `expected ${JSON.stringify(actual)} to contain ${JSON.stringify(expected)}`);
  }
}

/** Fails unless every one of `expected` deep-equals some element of `actual`. */
export function assertArrayIncludes<T>(
  actual: ArrayLike<T>,
  expected: ArrayLike<T>,
  message?: string,
): void {
  const present = Array.from(actual);
  for (const item of Array.from(expected)) {
    if (!present.some((other) => deepEquals(other, item))) {
      fail(message ?? `expected ${describe(present)} to contain ${describe(item)}`);
    }
  }
}

export function assertMatch(actual: string, expected: RegExp, message?: string): void {
  nodeAssert.match(actual, expected, message);
}

export function assertNotMatch(actual: string, expected: RegExp, message?: string): void {
  nodeAssert.doesNotMatch(actual, expected, message);
}

/** Fails unless `expected`'s keys are present in `actual` with deeply equal values (recursively). */
export function assertObjectMatch(
  actual: Record<PropertyKey, unknown>,
  expected: Record<PropertyKey, unknown>,
  message?: string,
): void {
  for (const key of Reflect.ownKeys(expected)) {
    const wanted = expected[key];
    const found = actual[key];
    if (isPlainRecord(wanted) && isPlainRecord(found)) assertObjectMatch(found, wanted, message);
    else nodeAssert.deepStrictEqual(found, wanted, message ?? `key ${String(key)} differs`);
  }
}

/** Runs `fn`, which must throw; returns the error after checking its class and a part of its message. */
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  errorClass?: AnyClass<E>,
  messageIncludes?: string,
  message?: string,
): E {
  let thrown: unknown;
  try {
    fn();
  } catch (error) {
    thrown = error;
    return checkError(thrown, errorClass, messageIncludes, message);
  }
  fail(message ?? "expected the function to throw");
}

/** Awaits `fn()`, which must reject; returns the error as `assertThrows` does. */
export async function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  errorClass?: AnyClass<E>,
  messageIncludes?: string,
  message?: string,
): Promise<E> {
  let promise: PromiseLike<unknown>;
  try {
    promise = fn();
  } catch (error) {
    fail(message ?? `expected a rejection, the function threw at once: ${describe(error)}`);
  }
  try {
    await promise;
  } catch (error) {
    return checkError(error, errorClass, messageIncludes, message);
  }
  fail(message ?? "expected the promise to be rejected");
}

export function fail(message = "failed"): never {
  throw new AssertionError({ message });
}

export function unreachable(message = "unreachable"): never {
  fail(message);
}

function checkError<E extends Error>(
  thrown: unknown,
  errorClass: AnyClass<E> | undefined,
  messageIncludes: string | undefined,
  message: string | undefined,
): E {
  if (!(thrown instanceof Error)) fail(message ?? `expected an Error, got ${describe(thrown)}`);
  if (errorClass !== undefined && !(thrown instanceof errorClass)) {
    fail(message ?? `expected ${errorClass.name}, got ${thrown.stack ?? describe(thrown)}`);
  }
  if (messageIncludes !== undefined && !thrown.message.includes(messageIncludes)) {
    fail(
      message ??
        `expected the message to contain ${JSON.stringify(messageIncludes)}, ` +
          `got ${JSON.stringify(thrown.message)}`,
    );
  }
  return thrown as E;
}

function deepEquals(a: unknown, b: unknown): boolean {
  try {
    nodeAssert.deepStrictEqual(a, b);
    return true;
  } catch {
    return false;
  }
}

function isPlainRecord(value: unknown): value is Record<PropertyKey, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function describe(value: unknown): string {
  if (value instanceof Error) return `${value.name}: ${value.message}`;
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return String(value);
  }
}
