/** A server in a process of its own, started with the words of the task `start`. */

import { linesOf } from "../../cli/lines.ts";
import { CapacityError } from "../../errors.ts";
import { parseProcessCpu } from "../machine.ts";

const ROOT = new URL("../../../", import.meta.url);
/** Longest time from the start of a process until its model answers. */
const START_MS = 120_000;
/** Time to drain and to close the store, after which the process is killed. */
const STOP_MS = 20_000;
/** Characters of its last words that an error message repeats. */
const KEPT_ERRORS = 400;

/** What `deno task start` is given, without dashes; undefined values are left out. */
export type ServerFlags = Readonly<Record<string, string | number | undefined>>;

/** A server under load, as the parts of the benchmark see it. */
export class ServerProcess {
  readonly #child: Deno.ChildProcess;
  readonly #reading: Promise<void>[];
  readonly #listening = Promise.withResolvers<string>();
  #lastWords = "";
  #url = "";

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#listening.promise.catch(() => {});
    this.#reading = [this.#read(child.stdout), this.#read(child.stderr)];
    Promise.all(this.#reading).then(() => {
      const said = this.#lastWords.trim().split("\n").slice(-3).join(" / ");
      this.#listening.reject(
        new CapacityError(`the server has ended early, its last words: ${said || "none"}`),
      );
    });
  }

  /**
   * Starts a server on a free port and waits until its model answers. Rejects with CapacityError, and
   * what the process said last, where it ends before.
   */
  static async start(flags: ServerFlags): Promise<ServerProcess> {
    const child = new Deno.Command(Deno.execPath(), {
      args: [...await taskWords(), "--port", "0", ...wordsOf(flags)],
      cwd: decodeURIComponent(ROOT.pathname),
      // Whoever measures may have variables for serving something else.
      clearEnv: true,
      env: Object.fromEntries(
        Object.entries(Deno.env.toObject()).filter(([name]) => !name.startsWith("SLUICE_")),
      ),
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const server = new ServerProcess(child);
    const late = setTimeout(() => server.#kill("SIGKILL"), START_MS);
    try {
      server.#url = await server.#listening.promise;
      return server;
    } catch (error) {
      await server.#end();
      throw error;
    } finally {
      clearTimeout(late);
    }
  }

  /** `http://127.0.0.1:PORT`, without a slash behind it. */
  get url(): string {
    return this.#url;
  }

  /** Resident bytes; undefined where the system does not tell. */
  residentBytes(): number | undefined {
    return parseResident(this.#proc("status") ?? "");
  }

  /** Processor time of all its threads so far; undefined where the system does not tell. */
  cpuSeconds(): number | undefined {
    const stat = this.#proc("stat");
    return stat === undefined ? undefined : parseProcessCpu(stat);
  }

  /** Asks it to end and waits for that; false where it had to be killed. */
  async stop(): Promise<boolean> {
    let killed = false;
    const late = setTimeout(() => {
      killed = true;
      this.#kill("SIGKILL");
    }, STOP_MS);
    this.#kill("SIGTERM");
    await this.#end();
    clearTimeout(late);
    return !killed;
  }

  async #end(): Promise<void> {
    await this.#child.status;
    await Promise.all(this.#reading);
  }

  #kill(signal: Deno.Signal): void {
    try {
      this.#child.kill(signal);
    } catch {
      // It has ended by itself.
    }
  }

  #proc(name: string): string | undefined {
    try {
      return Deno.readTextFileSync(`/proc/${this.#child.pid}/${name}`);
    } catch {
      return undefined;
    }
  }

  async #read(stream: ReadableStream<Uint8Array>): Promise<void> {
    for await (const line of linesOf(stream)) {
      this.#lastWords = `${this.#lastWords}\n${line}`.slice(-KEPT_ERRORS);
      const url = /\bhttp:\/\/127\.0\.0\.1:\d+$/.exec(line)?.[0];
      if (url !== undefined) this.#listening.resolve(url);
    }
  }
}

/** The words of the task `start` behind `deno`. */
async function taskWords(): Promise<string[]> {
  const { tasks } = JSON.parse(await Deno.readTextFile(new URL("deno.json", ROOT)));
  const [, ...words] = (tasks.start as string).split(" ");
  return words.map((word) => word.replaceAll("'", ""));
}

function wordsOf(flags: ServerFlags): string[] {
  return Object.entries(flags).flatMap(([name, value]) =>
    value === undefined ? [] : [`--${name}`, String(value)]
  );
}

/** Bytes of the line `VmRSS:  123 kB` in Linux's process status. */
export function parseResident(status: string): number | undefined {
  const match = /^VmRSS:\s+(\d+) kB$/m.exec(status);
  return match === null ? undefined : Number(match[1]) * 1024;
}

/** A value of a Prometheus page, summed over label sets that have `labels`; undefined without any. */
export function metricOf(
  page: string,
  { name, labels = {} }: { name: string; labels?: Readonly<Record<string, string>> },
): number | undefined {
  let sum: number | undefined;
  for (const line of page.split("\n")) {
    const match = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (match === null || match[1] !== name) continue;
    const fits = Object.entries(labels).every(([label, text]) =>
      (match[2] ?? "").includes(`${label}="${text}"`)
    );
    if (fits) sum = (sum ?? 0) + Number(match[3]);
  }
  return sum;
}

/** What `/metrics` says now. */
export async function metricsOf({ url }: { readonly url: string }): Promise<string> {
  const response = await fetch(`${url}/metrics`);
  return await response.text();
}
