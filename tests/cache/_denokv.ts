/** Starts the real KV Connect server, `denokv` of crates.io. */

const TOKEN = "a-token-of-the-tests";

/** The server's program, and why it cannot be run where it is missing. */
export const DENOKV: { readonly path: string; readonly missing?: string } = find();

function find(): { path: string; missing?: string } {
  const path = Deno.env.get("SLUICE_DENOKV") ?? "denokv";
  try {
    new Deno.Command(path, { args: ["--help"], stdout: "null", stderr: "null" }).outputSync();
    return { path };
  } catch {
    return { path, missing: "there is no denokv in PATH or SLUICE_DENOKV" };
  }
}

/** A running server; `url` and the token in DENO_KV_ACCESS_TOKEN lead to it. */
export class DenokvServer implements AsyncDisposable {
  readonly url: string;
  readonly #folder: string;
  readonly #port: number;
  #process: Deno.ChildProcess | null = null;

  static async start(): Promise<DenokvServer> {
    const server = new DenokvServer(await Deno.makeTempDir({ prefix: "sluice-denokv-" }));
    await server.start();
    return server;
  }

  private constructor(folder: string) {
    const listener = Deno.listen({ port: 0, hostname: "127.0.0.1" });
    this.#port = (listener.addr as Deno.NetAddr).port;
    listener.close();
    this.#folder = folder;
    this.url = `http://127.0.0.1:${this.#port}`;
    Deno.env.set("DENO_KV_ACCESS_TOKEN", TOKEN);
  }

  async start(): Promise<void> {
    const addr = `127.0.0.1:${this.#port}`;
    this.#process = new Deno.Command(DENOKV.path, {
      args: [
        "--sqlite-path",
        `${this.#folder}/server.sqlite3`,
        "serve",
        "--addr",
        addr,
        "--access-token",
        TOKEN,
      ],
      stdout: "null",
      stderr: "null",
    }).spawn();
    for (let i = 0; i < 200; i++) {
      try {
        (await Deno.connect({ port: this.#port, hostname: "127.0.0.1" })).close();
        return;
      } catch {
        await new Promise((done) => setTimeout(done, 25));
      }
    }
    throw new Error("cannot start denokv: nobody listens at its port after 5 s");
  }

  async stop(): Promise<void> {
    this.#process?.kill("SIGKILL");
    await this.#process?.status;
    this.#process = null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await Deno.remove(this.#folder, { recursive: true });
  }
}
