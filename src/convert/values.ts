/** Values for GGUF's key-value section, with the types that they have there. */

import type { TypedValue, ValueType } from "../formats/gguf/metadata.ts";
import type { MetadataArray } from "../formats/tensor_source.ts";

/** Keys and values of a part of the section; undefined where a key is left out. */
export type KeyValues = Readonly<Record<string, TypedValue | undefined>>;

export const text = (value: string): TypedValue => ({ type: "string", value });
export const u32 = (value: number): TypedValue => ({ type: "uint32", value });
export const i32 = (value: number): TypedValue => ({ type: "int32", value });
export const f32 = (value: number): TypedValue => ({ type: "float32", value });
export const bool = (value: boolean): TypedValue => ({ type: "bool", value });

export const texts = (values: readonly string[]): TypedValue => array("string", values);
export const i32s = (values: readonly number[]): TypedValue => array("int32", values);

function array(elementType: ValueType, values: readonly (string | number)[]): TypedValue {
  const value: MetadataArray & { readonly elementType: ValueType } = {
    elementType,
    length: values.length,
    at: (index) => values[index],
    [Symbol.iterator]: () => values.values(),
  };
  return { type: "array", value };
}

/** The section, in the order given. */
export function metadataOf(...parts: readonly KeyValues[]): Map<string, TypedValue> {
  const entries = parts.flatMap((part) => Object.entries(part));
  return new Map(entries.filter((entry): entry is [string, TypedValue] => entry[1] !== undefined));
}
