/** Tests that are declared as ever, to be run otherwise than by Deno: in a page, or for what they compile. */

type Body = (t: Steps) => void | Promise<void>;

/** What these tests use of `Deno.TestContext`. */
interface Steps {
  step(name: string, body: Body): Promise<boolean>;
}

/** How a test ended; crosses from pages. */
export interface Outcome {
  readonly steps: number;
  /** Of the test or its steps, in order. */
  readonly errors: readonly string[];
}

/** The tests, by name, that a function declares; Deno, which may be missing, does not hear of them. */
export function declaredBy(declare: () => void): Map<string, Body> {
  const bodies = new Map<string, Body>();
  const scope = globalThis as { Deno?: { test?: unknown } };
  const deno = scope.Deno;
  const test = (name: string, body: Body) => bodies.set(name, body);
  const kept = deno?.test;
  if (deno === undefined) scope.Deno = { test };
  else deno.test = test;
  try {
    declare();
  } finally {
    if (deno === undefined) delete scope.Deno;
    else deno.test = kept;
  }
  return bodies;
}

/** Runs a test with its steps, each `every`-th of them, whatever fails. */
export async function outcomeOf(
  body: Body,
  { every = 1 }: { every?: number } = {},
): Promise<Outcome> {
  let [steps, seen] = [0, 0];
  const errors: string[] = [];
  const attempt = async (path: string, body: Body): Promise<boolean> => {
    try {
      await body({
        step: (name, inner) => {
          if (seen++ % every !== 0) return Promise.resolve(true);
          steps++;
          return attempt(`${path}${name}: `, inner);
        },
      });
      return true;
    } catch (error) {
      errors.push(`${path}${error instanceof Error ? error.stack : error}`);
      return false;
    }
  };
  await attempt("", body);
  return { steps, errors };
}
