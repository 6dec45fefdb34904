/** Python with other projects' packages, which tests skip themselves without. */

import { assert } from "@std/assert";

/** `SLUICE_PYTHON` names one that has them. */
export const PYTHON = Deno.env.get("SLUICE_PYTHON") ?? "python3";

/** Whether Python has all of these modules. */
export function pythonHas(...modules: readonly string[]): boolean {
  try {
    const args = [
      "-c",
      `import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ${
        JSON.stringify(modules)
      })))`,
    ];
    return new Deno.Command(PYTHON, { args, stdout: "null", stderr: "null" }).outputSync().success;
  } catch {
    return false;
  }
}

/** Runs a script of this folder on a job and returns what it writes. */
export async function askPython<Answer>(script: string, job: unknown): Promise<Answer> {
  const child = new Deno.Command(PYTHON, {
    args: [new URL(script, import.meta.url).pathname],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(JSON.stringify(job)));
  await writer.close();
  const { success, stdout, stderr } = await child.output();
  assert(success, new TextDecoder().decode(stderr));
  return JSON.parse(new TextDecoder().decode(stdout));
}
