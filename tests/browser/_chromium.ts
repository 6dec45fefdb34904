/** Chromium with its software adapter, and a page in it that this process serves. */

import type { Browser, Page as Tab } from "playwright-core";
import { ROOT } from "../support/fixtures.ts";
import { SOFTWARE_SKIPPED } from "../support/gpu.ts";
import type { Page } from "./page.ts";

const EXECUTABLE = Deno.env.get("SLUICE_CHROMIUM") ?? "/usr/bin/chromium";

/** Without a sandbox, since tests run as root too; SwiftShader computes on the CPU. */
const FLAGS = [
  "--no-sandbox",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
];

/** Why tests in a browser are skipped; undefined where they run. */
const BROWSER_SKIPPED: string | undefined = isFile(EXECUTABLE)
  ? SOFTWARE_SKIPPED
  : `no ${EXECUTABLE}; SLUICE_CHROMIUM names another, Debian's package is chromium`;

/** Calls functions of the page in a browser. */
export class OpenPage {
  /** `http://127.0.0.1:PORT/`, which has the page, its script and the repository's model files. */
  readonly url: string;
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly #browser: Browser;
  readonly #tab: Tab;

  private constructor(
    { server, browser, tab }: {
      server: Deno.HttpServer<Deno.NetAddr>;
      browser: Browser;
      tab: Tab;
    },
  ) {
    this.url = urlOf(server);
    this.#server = server;
    this.#browser = browser;
    this.#tab = tab;
  }

  static async open(): Promise<OpenPage> {
    // It wants all permissions as soon as it is loaded.
    const { chromium } = await import("playwright-core");
    const script = await bundle();
    const options = { hostname: "127.0.0.1", port: 0, onListen: () => {} };
    const server = Deno.serve(options, (request) => answer(request, script));
    const browser = await chromium.launch({ executablePath: EXECUTABLE, args: FLAGS });
    const tab = await browser.newPage();
    const errors: string[] = [];
    tab.on("pageerror", ({ message }) => errors.push(message));
    await tab.goto(urlOf(server));
    try {
      await tab.waitForFunction("globalThis.page", undefined, { timeout: 30_000 });
    } catch (error) {
      throw new Error(`cannot open the page: ${errors.join("\n")}`, { cause: error });
    }
    return new OpenPage({ server, browser, tab });
  }

  /** Calls a function there; arguments and results cross as JSON. */
  async call<Name extends keyof Page>(
    name: Name,
    ...args: Parameters<Page[Name]>
  ): Promise<Awaited<ReturnType<Page[Name]>>> {
    return await this.#tab.evaluate(
      // deno-lint-ignore no-explicit-any -- of the page's own global scope
      ([name, args]) => (globalThis as any).page[name](...args as unknown[]),
      [name, args] as const,
    );
  }

  async close(): Promise<void> {
    await this.#browser.close();
    await this.#server.shutdown();
  }
}

function urlOf({ addr }: Deno.HttpServer<Deno.NetAddr>): string {
  return `http://127.0.0.1:${addr.port}/`;
}

/** The page's script with all that it imports. */
async function bundle(): Promise<Uint8Array<ArrayBuffer>> {
  const here = new URL("tests/browser/", ROOT).pathname;
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["bundle", "--quiet", "--platform", "browser"],
      ...["--import-map", `${here}import_map.json`, `${here}page.ts`],
    ],
  }).output();
  if (success) return stdout as Uint8Array<ArrayBuffer>;
  throw new Error(`cannot bundle the page: ${new TextDecoder().decode(stderr)}`);
}

async function answer(request: Request, script: Uint8Array<ArrayBuffer>): Promise<Response> {
  const { pathname } = new URL(request.url);
  if (pathname === "/page.js") {
    return new Response(script, { headers: { "content-type": "text/javascript" } });
  }
  if (pathname.endsWith(".gguf")) return await modelBytes(request, pathname);
  const html = `<!doctype html><title>sluice</title><script type="module" src="page.js"></script>`;
  return new Response(html, { headers: { "content-type": "text/html" } });
}

/** A range of a model file of the repository. */
async function modelBytes(request: Request, pathname: string): Promise<Response> {
  const bytes = await Deno.readFile(new URL(pathname.slice(1), ROOT));
  const headers = new Headers({ "accept-ranges": "bytes", etag: `"1"` });
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get("range") ?? "") ?? [];
  if (first === undefined) return new Response(bytes, { headers });
  const end = Math.min(Number(last) + 1, bytes.length);
  headers.set("content-range", `bytes ${first}-${end - 1}/${bytes.length}`);
  return new Response(bytes.slice(Number(first), end), { status: 206, headers });
}

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function inPage(
  t: Deno.TestContext,
  body: (page: OpenPage, t: Deno.TestContext) => Promise<void>,
): Promise<void> {
  const page = await OpenPage.open();
  try {
    await body(page, t);
  } finally {
    await page.close();
  }
}

/** Declares a test with a page of its own. */
export function pageTest(name: string, body: Parameters<typeof inPage>[1]): void {
  const note = BROWSER_SKIPPED === undefined ? "" : ` (skipped: ${BROWSER_SKIPPED})`;
  Deno.test({
    name: `browser: ${name}${note}`,
    ignore: BROWSER_SKIPPED !== undefined,
    fn: (t) => inPage(t, body),
  });
}
