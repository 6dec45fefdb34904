/** Corpora in folders of their own, and what they hold. */

import { main } from "../../../src/cli/data.ts";
import { recordedIo } from "../../cli/_io.ts";

/** Runs `test` with a folder that is removed afterwards. */
export async function withFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Writes a recipe, runs the command on it and returns what was printed. */
export async function makeData(
  folder: string,
  options: { recipe: Record<string, unknown>; out?: string; resume?: boolean },
): Promise<string> {
  const { recipe, out = "out", resume = false } = options;
  await Deno.writeTextFile(`${folder}/recipe.json`, JSON.stringify(recipe));
  const io = recordedIo();
  const args = ["--recipe", `${folder}/recipe.json`, "--out", `${folder}/${out}`];
  await main(resume ? [...args, "--resume"] : args, { io });
  return io.out();
}

export interface CorpusRow {
  readonly id: string;
  readonly source: string;
  readonly kind: string;
  readonly text?: string;
  readonly messages?: { role: string; content: string }[];
  readonly answer?: string;
  readonly family?: string;
}

/** The rows of one side of a corpus, over all its files. */
export async function rowsIn(folder: string, side: string): Promise<CorpusRow[]> {
  const names = [...Deno.readDirSync(folder)].map(({ name }) => name)
    .filter((name) => new RegExp(`^${side}-\\d+\\.jsonl$`).test(name)).sort();
  const rows: CorpusRow[] = [];
  for (const name of names) {
    const text = await Deno.readTextFile(`${folder}/${name}`);
    for (const line of text.trimEnd().split("\n")) rows.push(JSON.parse(line));
  }
  return rows;
}

export function promptOf(row: CorpusRow): string {
  return row.messages!.find(({ role }) => role === "user")!.content;
}

/** Every file below a folder with its bytes as text, to compare whole folders. */
export async function snapshot(folder: string): Promise<Record<string, string>> {
  const files: Record<string, string> = {};
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    if (isDirectory) {
      for (const [inner, text] of Object.entries(await snapshot(`${folder}/${name}`))) {
        files[`${name}/${inner}`] = text;
      }
    } else {
      const bytes = await Deno.readFile(`${folder}/${name}`);
      const hash = await crypto.subtle.digest("SHA-256", bytes);
      files[name] = `${bytes.length} ${new Uint8Array(hash).toHex()}`;
    }
  }
  return files;
}

/** A recipe of generated problems. */
export function generated(
  sources: readonly Record<string, unknown>[],
  more: Record<string, unknown> = {},
): Record<string, unknown> {
  return { name: "test", seed: 3, sources, split: { heldout: 0.1, limit: 100 }, ...more };
}
