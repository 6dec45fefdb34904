/** A driver as a child process: starting it, asking it, and what it took of memory. */

import { linesOf } from "../cli/lines.ts";
import { CapacityError } from "../errors.ts";
import { parseProcessCpu } from "./machine.ts";
import { MARK, parseReady, parseTiming, type Ready, type Request, type Timing } from "./wire.ts";

export interface DriverCommand {
  readonly command: string;
  readonly args: readonly string[];
  readonly cwd?: string;
}

/** Characters of standard error that an error message repeats. */
const KEPT_ERRORS = 400;

export class DriverProcess {
  readonly #child: Deno.ChildProcess;
  readonly #lines: AsyncGenerator<string>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #errors: Promise<void>;
  #errorText = "";

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#lines = linesOf(child.stdout);
    this.#writer = child.stdin.getWriter();
    this.#errors = this.#collectErrors();
  }

  /**
   * Starts the process and waits until its model is loaded. `startSeconds` counts from the start of
   * the process. Rejects with CapacityError, and what the process said last, where it ends before.
   */
  static async start(
    { command, args, cwd }: DriverCommand,
  ): Promise<{ driver: DriverProcess; ready: Ready; startSeconds: number }> {
    const start = performance.now();
    const child = new Deno.Command(command, {
      args: [...args],
      cwd,
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const driver = new DriverProcess(child);
    try {
      const ready = parseReady(await driver.#answer());
      return { driver, ready, startSeconds: (performance.now() - start) / 1000 };
    } catch (error) {
      await driver.close();
      throw error;
    }
  }

  /** Runs one request; nothing else may be asked meanwhile. */
  async run(request: Request): Promise<Timing> {
    return parseTiming(await this.ask(request));
  }

  /** The line with which the driver answers something; nothing else may be asked meanwhile. */
  async ask(question: unknown): Promise<string> {
    await this.#writer.write(new TextEncoder().encode(`${JSON.stringify(question)}\n`));
    return await this.#answer();
  }

  /** The largest resident size so far in bytes; undefined where the system does not tell. */
  peakBytes(): number | undefined {
    try {
      return parsePeak(Deno.readTextFileSync(`/proc/${this.#child.pid}/status`));
    } catch {
      return undefined;
    }
  }

  /** Processor time of all its threads so far; undefined where the system does not tell. */
  cpuSeconds(): number | undefined {
    try {
      return parseProcessCpu(Deno.readTextFileSync(`/proc/${this.#child.pid}/stat`));
    } catch {
      return undefined;
    }
  }

  /** Ends the process and waits for its end. */
  async close(): Promise<void> {
    await this.#writer.close().catch(() => {});
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended by itself.
    }
    await this.#child.status;
    await this.#lines.return(undefined);
    await this.#errors;
  }

  async #answer(): Promise<string> {
    while (true) {
      const { done, value } = await this.#lines.next();
      if (done) break;
      if (value.startsWith(MARK)) return value;
    }
    await this.#errors;
    const said = this.#errorText.trim().split("\n").slice(-3).join(" / ");
    throw new CapacityError(`the process has ended early, its last words: ${said || "none"}`);
  }

  async #collectErrors(): Promise<void> {
    for await (const line of linesOf(this.#child.stderr)) {
      this.#errorText = `${this.#errorText}\n${line}`.slice(-KEPT_ERRORS);
    }
  }
}

/** Bytes of the line `VmHWM:  123 kB` in Linux's process status. */
export function parsePeak(status: string): number | undefined {
  const match = /^VmHWM:\s+(\d+) kB$/m.exec(status);
  return match === null ? undefined : Number(match[1]) * 1024;
}
