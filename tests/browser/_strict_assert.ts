/** What tests that run in a page need of node:assert/strict. */

export class AssertionError extends Error {
  override readonly name = "AssertionError";

  constructor({ message }: { message: string }) {
    super(message);
  }
}

/** Plain values, arrays of any kind and plain objects. */
function deepStrictEqual(actual: unknown, expected: unknown, message = "not equal"): void {
  const difference = differenceOf(actual, expected);
  if (difference !== null) throw new AssertionError({ message: `${message}: ${difference}` });
}

/** Where two values differ first; null where they don't. */
function differenceOf(actual: unknown, expected: unknown): string | null {
  if (Object.is(actual, expected)) return null;
  if (!isObject(actual) || !isObject(expected)) return `${actual}, must be ${expected}`;
  if (Object.getPrototypeOf(actual) !== Object.getPrototypeOf(expected)) return "of another class";
  const [has, keys] = [Object.keys(actual), Object.keys(expected)];
  if (has.length !== keys.length) return `${has.length} members, must be ${keys.length}`;
  for (const key of keys) {
    if (!Object.hasOwn(actual, key)) return `${key} is missing`;
    const difference = differenceOf(actual[key], expected[key]);
    if (difference !== null) return `${key}: ${difference}`;
  }
  return null;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

export default { AssertionError, deepStrictEqual };
