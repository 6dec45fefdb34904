import { assert, assertEquals, assertRejects } from "@std/assert";
import { FormatError } from "../../src/errors.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import type { TensorSource } from "../../src/formats/tensor_source.ts";
import { type RangeServer, withRangeServer } from "../support/range_server.ts";
import { ROOT } from "../support/fixtures.ts";
import { buildGguf } from "./_gguf_builder.ts";
import { buildSafetensors } from "./_safetensors_builder.ts";

const GOLDENS = new URL("tests/data/goldens/", ROOT).pathname;
const GGUF = `${GOLDENS}gguf/deepseek_v3/deepseek_v3.q8_0.gguf`;
const FOLDER = `${GOLDENS}models/qwen2_tied`;

/** Every tensor's bytes, read in parts of `partBytes`, must be those of the source on disk. */
async function assertSameTensors(
  sources: { web: TensorSource; disk: TensorSource },
  partBytes: number,
): Promise<void> {
  const { web, disk } = sources;
  assertEquals([...web.tensors], [...disk.tensors]);
  assertEquals(web.byteLength, disk.byteLength);
  for (const tensor of disk.tensors.values()) {
    for (let offset = 0; offset < tensor.byteLength; offset += partBytes) {
      const length = Math.min(partBytes, tensor.byteLength - offset);
      const pair = [new Uint8Array(length), new Uint8Array(length)];
      await disk.read(tensor, offset, pair[0]);
      await web.read(tensor, offset, pair[1]);
      assertEquals(pair[0].findIndex((byte, i) => byte !== pair[1][i]), -1, tensor.name);
    }
  }
}

async function assertOpensAs(url: string, path: string): Promise<void> {
  const web = await openCheckpoint(url);
  const disk = await openCheckpoint(path);
  for (const partBytes of [50_000, 1 << 20]) await assertSameTensors({ web, disk }, partBytes);
  web.close();
  disk.close();
}

Deno.test("a GGUF file loads from a URL in few requests, equal to the file on disk", async () => {
  await withRangeServer({ files: { "dir/a model.gguf": GGUF } }, async (server) => {
    const url = `${server.url}dir/a%20model.gguf`;
    await assertOpensAs(url, GGUF);
    const { size } = Deno.statSync(GGUF);
    assert(server.requests.length < 10 + size / 100_000, `${server.requests.length} requests`);
    const source = await openCheckpoint(url);
    assertEquals([source.format, source.name], ["gguf", "a model.gguf"]);
    const disk = await openCheckpoint(GGUF);
    for (const tensor of source.tensors.values()) {
      assertEquals(source.locate?.(tensor), {
        ...disk.locate?.(tensor),
        offset: disk.locate!(tensor)!.offset,
        file: url,
        version: { size, etag: server.etag! },
      });
    }
    disk.close();
    source.close();
  });
});

Deno.test("a Hugging Face folder loads from a URL that ends with a slash, or by its weights", async () => {
  const files = Object.fromEntries(
    ["config.json", "model.safetensors"].map((name) => [`owner/${name}`, `${FOLDER}/${name}`]),
  );
  await withRangeServer({ files }, async (server) => {
    await assertOpensAs(`${server.url}owner/`, FOLDER);
    await assertOpensAs(`${server.url}owner/model.safetensors?download=true`, FOLDER);
    const source = await openCheckpoint(`${server.url}owner/`);
    assertEquals(source.name, "owner");
    assertEquals(await source.sidecar("tokenizer.json"), null);
    assertEquals(
      await source.sidecar("config.json"),
      Deno.readTextFileSync(`${FOLDER}/config.json`),
    );
    await assertRejects(() => source.sidecar("../config.json"), FormatError, "plain file name");
    server.fault = () => new Response(null, { status: 403 });
    await assertRejects(
      () => source.sidecar("tokenizer.json"),
      FormatError,
      `cannot read "tokenizer.json": its answer is 403, must be 200`,
    );
    source.close();
  });
});

Deno.test("the parts of a split GGUF and of an indexed folder load from a URL", async () => {
  const part = (index: number) =>
    new Uint8Array(buildGguf({
      keyValues: [
        { key: "general.architecture", type: "string", value: "llama" },
        { key: "split.no", type: "uint16", value: index },
        { key: "split.count", type: "uint16", value: 2 },
      ],
      tensors: [{ name: `t${index}`, ne: [8], typeId: 0, byteLength: 32 }],
    }));
  const shard = (name: string) =>
    new Uint8Array(buildSafetensors(
      { [name]: { dtype: "F32", shape: [2], data_offsets: [0, 8] } },
      { data: 8 },
    ));
  const files = {
    "m-00001-of-00002.gguf": part(0),
    "m-00002-of-00002.gguf": part(1),
    "hf/x.safetensors": shard("a"),
    "hf/y.safetensors": shard("b"),
    "hf/config.json": `${FOLDER}/config.json`,
    "hf/model.safetensors.index.json": new TextEncoder().encode(
      JSON.stringify({ weight_map: { a: "x.safetensors", b: "y.safetensors" } }),
    ),
  };
  await withRangeServer({ files }, async (server) => {
    for (const [path, names] of [["m-00002-of-00002.gguf", "t0,t1"], ["hf/", "a,b"]]) {
      const source = await openCheckpoint(server.url + path);
      assertEquals([...source.tensors.keys()].join(), names);
      source.close();
    }
    delete server.files["m-00001-of-00002.gguf"];
    delete server.files["hf/y.safetensors"];
    for (const [path, missing] of [["m-00002-of-00002.gguf", "m-00001-of"], ["hf/", "y.safe"]]) {
      await assertRejects(() => openCheckpoint(server.url + path), FormatError, `open "${missing}`);
    }
  });
});

Deno.test("a file on the web that lies about its header or its length is refused", async () => {
  const huge = new Uint8Array(64);
  new DataView(huge.buffer).setBigUint64(0, 99_999_999n, true);
  const files = { "lie.safetensors": huge, "whole.gguf": Deno.readFileSync(GGUF) };
  await withRangeServer({ files }, async (server) => {
    const open = (name: string) => () => openCheckpoint(server.url + name);
    await assertRejects(open("lie.safetensors"), FormatError, "the header's length is 99999999");
    const pretend = (size: number) => (server: RangeServer) =>
      server.fault = ({ range }, proper) => {
        proper.headers.set("content-range", `bytes ${range!.join("-")}/${size}`);
        return proper;
      };
    // So large that the header's length is believed: the bytes that are missing tell.
    pretend(2 ** 50)(server);
    await assertRejects(open("lie.safetensors"), FormatError, "the length of its answer is 64");
    await assertRejects(open("whole.gguf"), FormatError, `"whole.gguf"`);
  });
});

Deno.test("a server without ranges is said to be one, without downloading the model", async () => {
  await withRangeServer({ files: { "m.gguf": GGUF } }, async (server) => {
    server.fault = () => new Response(Deno.readFileSync(GGUF));
    await assertRejects(
      () => openCheckpoint(`${server.url}m.gguf`),
      FormatError,
      `cannot open "m.gguf": its answer is 200, must be 206 (the server must answer range requests)`,
    );
    assertEquals(server.requests.length, 1);
  });
});

Deno.test({
  name: "a model's host that is not permitted is named with what would permit it",
  permissions: { net: ["127.0.0.1:0"], read: true },
  async fn() {
    const { message } = await assertRejects(
      () => openCheckpoint("https://user:secret@models.example/dir/m.gguf"),
      FormatError,
    );
    assertEquals(
      message,
      `cannot open "m.gguf": net access to models.example:443 is not permitted, must be in ` +
        `--allow-net of the task in deno.json (add models.example:443)`,
    );
  },
});
