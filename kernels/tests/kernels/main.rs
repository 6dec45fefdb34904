//! The kernels on the scalar twin of their vectors, against straightforward evaluations written from
//! the definitions. What the compiled modules compute is the business of the tests in TypeScript.

mod activations;
mod attention;
mod cells;
mod experts;
mod extremes;
mod finite;
mod formats;
mod gate;
mod kinds;
mod latent;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod latent_plan;
mod linear;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod low;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod mixture_plan;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod plan;
mod support;
mod sync;
mod training;
mod window;
