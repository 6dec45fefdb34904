/* @ts-self-types="./sluice_kernels.d.ts" */

/**
 * Bytes of one row of activations in these forms.
 * @param {number} cols
 * @param {number} forms
 * @param {number} precision
 * @returns {number}
 */
export function activation_bytes(cols, forms, precision) {
    const ret = wasm.activation_bytes(cols, forms, precision);
    return ret >>> 0;
}

/**
 * Forms of activations (a bit set) that a type reads at this precision.
 * @param {number} kind
 * @param {number} precision
 * @returns {number}
 */
export function activation_forms(kind, precision) {
    const ret = wasm.activation_forms(kind, precision);
    return ret >>> 0;
}

/**
 * Allocates zeroed memory aligned to 64 bytes; 0 where there is none left.
 * @param {number} bytes
 * @returns {number}
 */
export function allocate(bytes) {
    const ret = wasm.allocate(bytes);
    return ret >>> 0;
}

/**
 * Makes the context that threads share; returns its address.
 * @returns {number}
 */
export function create_context() {
    const ret = wasm.create_context();
    return ret >>> 0;
}

/**
 * Writes the description of a packed matrix to 16 bytes at `at`.
 * @param {number} at
 * @param {number} kind
 * @param {number} rows
 * @param {number} cols
 * @param {number} data
 */
export function describe_weight(at, kind, rows, cols, data) {
    wasm.describe_weight(at, kind, rows, cols, data);
}

/**
 * Lets the threads in `serve` return with `code`.
 * @param {number} context
 * @param {number} code
 */
export function dismiss(context, code) {
    wasm.dismiss(context, code);
}

/**
 * Says that the calling thread has trapped in `serve`, so that the others don't wait for it.
 * @param {number} context
 */
export function fail(context) {
    wasm.fail(context);
}

/**
 * Joins the threads of a backend, in its first memory; returns the thread's number.
 * @param {number} context
 * @returns {number}
 */
export function join(context) {
    const ret = wasm.join(context);
    return ret >>> 0;
}

/**
 * Threads that have joined so far, besides the one that runs plans.
 * @param {number} context
 * @returns {number}
 */
export function joined(context) {
    const ret = wasm.joined(context);
    return ret >>> 0;
}

/**
 * The number of the form in which this processor multiplies a type fastest; the type's own for most.
 * @param {number} kind
 * @returns {number}
 */
export function kernel_kind(kind) {
    const ret = wasm.kernel_kind(kind);
    return ret >>> 0;
}

/**
 * Packs `rows` rows at `src` (file layout) into the groups that start at `dst`; false where a value is
 * NaN or infinite.
 * @param {number} kind
 * @param {number} src
 * @param {number} rows
 * @param {number} cols
 * @param {number} dst
 * @returns {boolean}
 */
export function pack(kind, src, rows, cols, dst) {
    const ret = wasm.pack(kind, src, rows, cols, dst);
    return ret !== 0;
}

/**
 * Bytes of a packed matrix, or 0 where the type has no kernel or the width isn't whole blocks.
 * @param {number} kind
 * @param {number} rows
 * @param {number} cols
 * @returns {number}
 */
export function packed_bytes(kind, rows, cols) {
    const ret = wasm.packed_bytes(kind, rows, cols);
    return ret;
}

/**
 * Writes what decides the bits of results on this machine to `probe_words` words at `at`.
 * @param {number} at
 */
export function probe(at) {
    wasm.probe(at);
}

/**
 * Words that `probe` writes.
 * @returns {number}
 */
export function probe_words() {
    const ret = wasm.probe_words();
    return ret >>> 0;
}

/**
 * Runs a plan on the first `threads` threads, as thread 0; returns when it is done. The others then
 * leave `serve` with `next`, or wait on where that is `u32::MAX`.
 * @param {number} context
 * @param {number} plan
 * @param {number} ops
 * @param {number} threads
 * @param {number} next
 */
export function run_plan(context, plan, ops, threads, next) {
    wasm.run_plan(context, plan, ops, threads, next);
}

/**
 * Bytes of scratch that each thread needs for matrices up to this width, for the experts of a step with
 * `pairs` choices among `experts`, and for cached rows of up to `cached` numbers (a head's keys or
 * values, or a latent with its key).
 * @param {number} cols
 * @param {number} pairs
 * @param {number} experts
 * @param {number} cached
 * @returns {number}
 */
export function scratch_bytes(cols, pairs, experts, cached) {
    const ret = wasm.scratch_bytes(cols, pairs, experts, cached);
    return ret >>> 0;
}

/**
 * Runs every plan that `run_plan` starts in this memory from then on, until the threads are sent
 * elsewhere; returns where.
 * @param {number} context
 * @param {number} thread
 * @returns {number}
 */
export function serve(context, thread) {
    const ret = wasm.serve(context, thread);
    return ret >>> 0;
}

/**
 * Gives each thread `bytes` of scratch from `at` on. No plan may be running.
 * @param {number} context
 * @param {number} at
 * @param {number} bytes
 */
export function set_scratch(context, at, bytes) {
    wasm.set_scratch(context, at, bytes);
}

/**
 * Sets how many streams decode kernels read side by side, 1, 2 or 4; results are the same. No plan may be
 * running.
 * @param {number} context
 * @param {number} streams
 */
export function set_streams(context, streams) {
    wasm.set_streams(context, streams);
}

/**
 * Bytes of scratch that each thread needs for the products of a backward pass, and for the attention of
 * sequences of up to `rows` rows where `group` heads read the same keys.
 * @param {number} group
 * @param {number} rows
 * @returns {number}
 */
export function training_scratch_bytes(group, rows) {
    const ret = wasm.training_scratch_bytes(group, rows);
    return ret >>> 0;
}
function __wbg_get_imports(memory) {
    const import0 = {
        __proto__: null,
        __wbindgen_init_externref_table: function() {
            const table = wasm.__wbindgen_externrefs;
            const offset = table.grow(4);
            table.set(0, undefined);
            table.set(offset + 0, undefined);
            table.set(offset + 1, null);
            table.set(offset + 2, true);
            table.set(offset + 3, false);
        },
        memory: memory || new WebAssembly.Memory({initial:18,maximum:65536,shared:true}),
    };
    return {
        __proto__: null,
        "./sluice_kernels_bg.js": import0,
    };
}

let wasmModule, wasm;
function __wbg_finalize_init(instance, module, thread_stack_size) {
    wasm = instance.exports;
    wasmModule = module;
    if (typeof thread_stack_size !== 'undefined' && (typeof thread_stack_size !== 'number' || thread_stack_size === 0 || thread_stack_size % 65536 !== 0)) {
        throw new Error('invalid stack size');
    }

    wasm.__wbindgen_start(thread_stack_size);
    return wasm;
}

async function __wbg_load(module, imports) {
    if (typeof Response === 'function' && module instanceof Response) {
        if (typeof WebAssembly.instantiateStreaming === 'function') {
            try {
                return await WebAssembly.instantiateStreaming(module, imports);
            } catch (e) {
                const validResponse = module.ok && expectedResponseType(module.type);

                if (validResponse && module.headers.get('Content-Type') !== 'application/wasm') {
                    console.warn("`WebAssembly.instantiateStreaming` failed because your server does not serve Wasm with `application/wasm` MIME type. Falling back to `WebAssembly.instantiate` which is slower. Original error:\n", e);

                } else { throw e; }
            }
        }

        const bytes = await module.arrayBuffer();
        return await WebAssembly.instantiate(bytes, imports);
    } else {
        const instance = await WebAssembly.instantiate(module, imports);

        if (instance instanceof WebAssembly.Instance) {
            return { instance, module };
        } else {
            return instance;
        }
    }

    function expectedResponseType(type) {
        switch (type) {
            case 'basic': case 'cors': case 'default': return true;
        }
        return false;
    }
}

function initSync(module, memory) {
    if (wasm !== undefined) return wasm;

    let thread_stack_size
    if (module !== undefined) {
        if (Object.getPrototypeOf(module) === Object.prototype) {
            ({module, memory, thread_stack_size} = module)
        } else {
            console.warn('using deprecated parameters for `initSync()`; pass a single object instead')
        }
    }

    const imports = __wbg_get_imports(memory);
    if (!(module instanceof WebAssembly.Module)) {
        module = new WebAssembly.Module(module);
    }
    const instance = new WebAssembly.Instance(module, imports);
    return __wbg_finalize_init(instance, module, thread_stack_size);
}

async function __wbg_init(module_or_path, memory) {
    if (wasm !== undefined) return wasm;

    let thread_stack_size
    if (module_or_path !== undefined) {
        if (Object.getPrototypeOf(module_or_path) === Object.prototype) {
            ({module_or_path, memory, thread_stack_size} = module_or_path)
        } else {
            console.warn('using deprecated parameters for the initialization function; pass a single object instead')
        }
    }

    if (module_or_path === undefined) {
        module_or_path = new URL('sluice_kernels_bg.wasm', import.meta.url);
    }
    const imports = __wbg_get_imports(memory);

    if (typeof module_or_path === 'string' || (typeof Request === 'function' && module_or_path instanceof Request) || (typeof URL === 'function' && module_or_path instanceof URL)) {
        module_or_path = fetch(module_or_path);
    }

    const { instance, module } = await __wbg_load(await module_or_path, imports);

    return __wbg_finalize_init(instance, module, thread_stack_size);
}

export { initSync, __wbg_init as default };
