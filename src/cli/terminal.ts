/** What terminals are told: progress, sizes, and errors as one line. */

import type { LoadProgress } from "../engine/types.ts";
import {
  CapacityError,
  ExpertReadError,
  FormatError,
  OptionError,
  RemoteError,
  RequestError,
  TrainingError,
  UnsupportedOpError,
} from "../errors.ts";

/** Exit codes: the command line is wrong, or the command failed. */
export const EXIT_USAGE = 2;
export const EXIT_FAILURE = 1;

const ENCODER = new TextEncoder();

/** Something text can be written to, `Deno.stdout` for instance. */
export interface Terminal {
  writeSync(bytes: Uint8Array): number;
  isTerminal(): boolean;
}

/** What a command is given by its process; tests give their own. */
export interface CommandIo {
  readonly stdout: Terminal;
  readonly stderr: Terminal;
  /** Reads an environment variable. */
  readonly env: (name: string) => string | undefined;
}

/** The process's own streams and environment. */
export function processIo(): CommandIo {
  return { stdout: Deno.stdout, stderr: Deno.stderr, env: (name) => Deno.env.get(name) };
}

export function write(terminal: Pick<Terminal, "writeSync">, text: string): void {
  let bytes = ENCODER.encode(text);
  while (bytes.length > 0) bytes = bytes.subarray(terminal.writeSync(bytes));
}

/** Replaces control characters, so that a model's answer or a file's name cannot steer the terminal. */
export function printable(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\u{FFFD}");
}

/** 12_345_678 -> "12.3 MB". */
export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** 134_515_008 -> "134.5M". */
export function formatCount(count: number): string {
  if (count >= 1e9) return `${(count / 1e9).toFixed(1)}B`;
  if (count >= 1e6) return `${(count / 1e6).toFixed(1)}M`;
  if (count >= 1e3) return `${(count / 1e3).toFixed(1)}k`;
  return String(count);
}

type Progress = Parameters<LoadProgress>[0];

function sizesOf({ loadedBytes, totalBytes }: Progress): string {
  return `${formatBytes(loadedBytes)} of ${formatBytes(totalBytes)}`;
}

const BAR_CELLS = 30;
/** Milliseconds between two drawings of the bar. */
const REDRAW_MS = 50;

/** A progress bar that redraws its line; nothing where the terminal is none. */
export function progressBar(
  terminal: Terminal,
  label: string | { readonly label: string; readonly amounts: (progress: Progress) => string },
): { readonly onProgress: LoadProgress; readonly clear: () => void } {
  if (!terminal.isTerminal()) return { onProgress: () => {}, clear: () => {} };
  const bar = typeof label === "string" ? { label, amounts: sizesOf } : label;
  let drawnAt = -Infinity;
  return {
    onProgress: (progress) => {
      const { loadedBytes, totalBytes } = progress;
      const now = performance.now();
      if (now - drawnAt < REDRAW_MS && loadedBytes < totalBytes) return;
      drawnAt = now;
      const share = totalBytes > 0 ? Math.min(1, loadedBytes / totalBytes) : 0;
      const full = Math.round(share * BAR_CELLS);
      const cells = "█".repeat(full) + "░".repeat(BAR_CELLS - full);
      const percent = String(Math.round(share * 100)).padStart(3);
      write(terminal, `\r${bar.label} ${cells} ${percent} % ${bar.amounts(progress)}\x1b[K`);
    },
    clear: () => write(terminal, "\r\x1b[K"),
  };
}

const EXPECTED = [
  CapacityError,
  ExpertReadError,
  FormatError,
  OptionError,
  RemoteError,
  RequestError,
  TrainingError,
  UnsupportedOpError,
];

/** An error as one line for a person; faults of ours keep their class. */
export function errorLine(error: unknown): string {
  if (EXPECTED.some((kind) => error instanceof kind)) return printable((error as Error).message);
  return printable(error instanceof Error ? `${error.name}: ${error.message}` : String(error));
}

/** Milliseconds within which two signals are one key press. */
const SAME_PRESS_MS = 300;

/**
 * Listens to SIGINT (and with `terminate` to SIGTERM). Under `deno task` one Ctrl-C arrives twice, from
 * the terminal and from the task runner; the second arrival is not told.
 */
export function onInterrupt(listener: () => void, options: { terminate?: boolean } = {}): void {
  let last = -Infinity;
  const onSignal = () => {
    const now = performance.now();
    if (now - last > SAME_PRESS_MS) listener();
    last = now;
  };
  Deno.addSignalListener("SIGINT", onSignal);
  // Windows knows no SIGTERM.
  if (options.terminate && Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", onSignal);
}

/** Runs a command: its exit code ends the process, its error becomes a line. */
export async function runCommand(command: () => Promise<number>): Promise<never> {
  let code: number;
  try {
    code = await command();
  } catch (error) {
    write(Deno.stderr, `${errorLine(error)}\n`);
    code = error instanceof OptionError ? EXIT_USAGE : EXIT_FAILURE;
  }
  Deno.exit(code);
}
