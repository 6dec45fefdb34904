/** Where a command's model is, and what it is called. */

import { isWebUrl, webName } from "../formats/web_request.ts";

/** The model that comes with the project, served where no other one is named. */
const BUILT_IN = "../../models/sluice_26m_a7m.q8_0.gguf";

/** The given path, or else the built-in model's. */
export function modelPathOf(given: string | undefined): string {
  return given ?? `${import.meta.dirname}/${BUILT_IN}`;
}

/** The name under which a model is served: its file's or folder's, without the ending. */
export function modelIdOf(path: string): string {
  const name = isWebUrl(path) ? nameOfUrl(path) : path.replace(/[/\\]+$/, "").split(/[/\\]/).at(-1);
  return name?.replace(/\.(gguf|safetensors)$/i, "") || "model";
}

/** Never more than the path's last part: the rest of a URL may hold secrets. */
function nameOfUrl(text: string): string | undefined {
  const url = URL.parse(text);
  return url === null ? undefined : webName(url);
}
