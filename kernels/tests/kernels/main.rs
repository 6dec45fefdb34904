//! The kernels on the scalar twin of their vectors, against straightforward evaluations written from
//! the definitions. What the compiled modules compute is the business of the tests in TypeScript.

mod activations;
mod attention;
mod extremes;
mod formats;
mod linear;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod plan;
mod support;
mod sync;
